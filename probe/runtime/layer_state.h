#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kvscope/kernels/apply_decision.h"

namespace kvscope::detail {

/// One layer's live cache: keys and values with spare room, a live length per KV head, and what
/// each slot stands for. Copying shares the tensors; `clone` does not.
class LayerState {
 public:
  LayerState(int kv_heads, int head_dim, int capacity, const at::TensorOptions& options);

  int kv_heads() const { return static_cast<int>(heads_.size()); }
  int length(int kv_head) const;
  int longest() const;
  bool uniform() const;  ///< every head has the same length
  bool merged() const { return merged_; }
  bool cut() const { return cut_; }  ///< a decision was applied
  std::int64_t live_bytes() const;

  /// Room for `count` more slots in every head.
  void reserve(int count);
  /// Where the next rows of a head go: [count, head_dim], after `reserve(count)`.
  at::Tensor next_keys(int kv_head, int count) const;
  at::Tensor next_values(int kv_head, int count) const;
  /// Makes the rows written there live: slots of tokens first_token, first_token + 1, ...
  void append(int first_token, std::span<const std::int32_t> positions);
  /// Forgets the newest `count` slots of every head.
  void drop_newest(int count);

  at::Tensor keys() const;    ///< [kv_heads, longest, head_dim], a view
  at::Tensor values() const;  ///< [kv_heads, longest, head_dim], a view
  /// [kv_heads, longest] float32, or undefined while every slot stands for one token.
  at::Tensor multiplicity() const;
  /// [kv_heads] int32, or undefined while all heads are equally long.
  at::Tensor lengths() const;
  SlotTable slots() const;
  LayerCache cache() const { return {keys(), values(), slots()}; }
  /// Takes over a cache that a decision has cut.
  void replace(const LayerCache& cache);
  LayerState clone() const;

 private:
  struct Head {
    std::vector<std::int32_t> token;
    std::vector<std::int32_t> position;
    std::vector<float> multiplicity;
  };

  std::vector<Head> heads_;
  at::Tensor keys_;  ///< [kv_heads, capacity, head_dim]; cells that are not live are zero
  at::Tensor values_;
  bool merged_ = false;
  bool cut_ = false;
};

}  // namespace kvscope::detail
