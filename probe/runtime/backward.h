#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "attention_backward.h"
#include "differentiable.h"
#include "forward.h"

namespace kvscope::detail {

/// What a pass leaves behind for its backward pass: the input, queries, LSE and attention output of
/// each layer. Everything else is computed again, one layer at a time.
class PassTrace {
 public:
  struct Layer {
    at::Tensor hidden;                    ///< [rows, hidden_dim]
    at::Tensor queries;                   ///< [query_heads, rows, head_dim] post-RoPE
    at::Tensor lse;                       ///< [query_heads, rows]
    at::Tensor output;                    ///< [query_heads, rows, head_dim]
    std::vector<std::int32_t> positions;  ///< [rows]
    AttentionStats stats = {};            ///< of the pass; of a pass computed again none
  };
  void keep(const LayerPass& pass);
  void keep(Layer layer) { layers_.push_back(std::move(layer)); }
  const std::vector<Layer>& layers() const { return layers_; }

 private:
  std::vector<Layer> layers_;
};

/// Gradients at one layer's attention.
struct LayerGradient {
  int layer = 0;
  at::Tensor keys;    ///< [kv_heads, slots, head_dim] d loss / d key, pre-RoPE
  at::Tensor output;  ///< [query_heads, rows, head_dim] d loss / d attention output, before W_O
  AttentionTrace attention;  ///< the attention they belong to
};

/// The pass of `seen` computed again in float64: from the embeddings of `ids`, on the cache as
/// `layers` store it. `layers` still hold the pass's own slots, which are computed again too.
struct Float64Pass {
  PassTrace trace;
  at::Tensor normed;  ///< [rows, hidden_dim] normalised final states
};
Float64Pass in_float64(const DifferentiableModel& model, const std::vector<LayerState>& layers,
                       const PassTrace& seen, std::span<const std::int32_t> ids,
                       const std::atomic<bool>* stop);

/// The backward pass of the newest tokens of `layers`, whose caches still hold them: mean
/// next-token cross entropy inside the pass, which is returned. `normed` [rows, hidden_dim] are its
/// normalised final states. Calls `watch` for each layer, newest first. Cached keys and values are
/// constants; the pass's own are not. Row-wise parts run under LibTorch's autograd, attention in
/// `attention_backward`, all in the number types of `model` (float64: needs the trace and `normed`
/// of `in_float64`). Throws Error{usage} for a single token, Error{unsupported} for ragged caches,
/// sliding windows and rotations that grow, Error{failed} if the loss is not a number.
double run_backward(const DifferentiableModel& model, const std::vector<LayerState>& layers,
                    const PassTrace& trace, std::span<const std::int32_t> ids,
                    const at::Tensor& normed,
                    const std::function<void(const LayerGradient&)>& watch,
                    const std::atomic<bool>* stop);

}  // namespace kvscope::detail
