#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope::detail {

/// Attention of the newest `rows` slots' queries over a uniform cache, as it was computed forward.
struct AttentionTrace {
  at::Tensor queries;       ///< [query_heads, rows, head_dim] post-RoPE
  at::Tensor keys;          ///< [kv_heads, slots, head_dim] post-RoPE
  at::Tensor values;        ///< [kv_heads, slots, head_dim] means
  at::Tensor multiplicity;  ///< [kv_heads, slots] float32, or undefined (= 1)
  at::Tensor lse;           ///< [query_heads, rows]
  at::Tensor output;        ///< [query_heads, rows, head_dim]
  double scale = 1.0;
  double softcap = 0.0;
};

struct AttentionGradient {
  at::Tensor queries;     ///< [query_heads, rows, head_dim]
  at::Tensor keys;        ///< [kv_heads, slots, head_dim]
  at::Tensor new_values;  ///< [kv_heads, rows, head_dim] of the newest slots
};

/// Gradients of a loss through attention, from d loss / d output. The newest `rows` slots are
/// causal, older ones visible to every query. Probabilities come back from the LSE a block of
/// queries at a time, so that memory stays at block x slots. LibTorch operators, in the number type
/// of the trace.
AttentionGradient attention_backward(const AttentionTrace& trace,
                                     const at::Tensor& output_gradient);

}  // namespace kvscope::detail
