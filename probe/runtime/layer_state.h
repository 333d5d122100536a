#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kvscope/core/shape.h"
#include "kvscope/kernels/apply_decision.h"

namespace kvscope::detail {

/// One layer's live cache: keys and values with spare room, a live length per KV head, and what
/// each slot stands for. Copying shares the tensors; `clone` does not.
///
/// Attention reads post-RoPE keys and mean values. A form that stores pre-RoPE keys has them beside
/// the rotated ones, which are a working copy made again after every cut; summed values are held
/// divided by their multiplicity.
class LayerState {
 public:
  LayerState(int kv_heads, int head_dim, int capacity, const at::TensorOptions& options);

  const CacheForm& form() const { return form_; }
  /// Changes how an uncut cache is stored; pre-RoPE keys of slots that are there already come from
  /// their rotated ones. Throws Error{unsupported} for a cut cache, or for moving positions without
  /// pre-RoPE keys.
  void store_as(const CacheForm& form, const RopeParameters& rope);
  /// Position of the next token where the form counts slots or multiplicities, else `by_table`.
  /// Throws Error{unsupported} if heads disagree.
  int next_position(int by_table) const;

  int kv_heads() const { return static_cast<int>(heads_.size()); }
  int length(int kv_head) const;
  int longest() const;
  bool uniform() const;  ///< every head has the same length
  bool merged() const { return merged_; }
  bool cut() const { return cut_; }  ///< a decision was applied
  /// Key and value bytes of the live slots in the form's storage; the working copy is not counted.
  std::int64_t live_bytes() const;

  /// Room for `count` more slots in every head.
  void reserve(int count);
  /// Where the next rows of a head go: [count, head_dim], after `reserve(count)`.
  at::Tensor next_keys(int kv_head, int count) const;
  at::Tensor next_values(int kv_head, int count) const;
  void* next_key_data(int kv_head) const;  ///< the first number of `next_keys`, on the CPU
  void* next_value_data(int kv_head) const;
  /// Stores the pre-RoPE keys [kv_heads, count, head_dim] of the same rows; only where
  /// `keeps_raw_keys`.
  void write_raw_keys(const at::Tensor& keys) const;
  bool keeps_raw_keys() const { return raw_keys_.defined(); }
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
  /// rows [kv_heads, slots, head_dim] turned by the positions of the live slots, or turned back;
  /// zero behind them. Angles are float64 where the rows are.
  at::Tensor turned(const at::Tensor& rows, const RopeParameters& rope, bool back,
                    int prompt_tokens = 0) const;
  at::Tensor stored_keys() const;    ///< likewise, in the form's frame
  at::Tensor stored_values() const;  ///< likewise, means or sums as the form says
  /// As decisions are applied to it.
  LayerCache cache() const { return {stored_keys(), stored_values(), slots()}; }
  /// Takes over a cache that a decision has cut.
  void replace(const LayerCache& cache, const RopeParameters& rope);
  LayerState clone() const;

 private:
  struct Head {
    std::vector<std::int32_t> token;
    std::vector<std::int32_t> position;
    std::vector<float> multiplicity;
    std::size_t cut_slots = 0;  ///< the oldest, which the last cut has left
  };

  std::vector<Head> heads_;
  CacheForm form_;
  at::Tensor keys_;  ///< [kv_heads, capacity, head_dim]; cells that are not live are zero
  at::Tensor values_;
  at::Tensor raw_keys_;  ///< as keys_, before RoPE; undefined unless the form stores them
  bool merged_ = false;
  bool cut_ = false;
};

}  // namespace kvscope::detail
