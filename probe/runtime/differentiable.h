#pragma once

#include <ATen/core/Tensor.h>

#include "loaded_model.h"
#include "rotation.h"

namespace kvscope::detail {

// The row-wise parts of a layer in plain LibTorch operators, which autograd can go back through.
// The forward pass computes the same with fused loops.

/// Queries and keys post-RoPE: [heads, rows, head_dim] float32.
struct Projected {
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
};
Projected project(const LoadedModel& model, int layer, const at::Tensor& hidden,
                  const Rotation& rotation);

/// The layer's output from its input [rows, hidden_dim] and its attention's output, heads joined
/// [rows, query_heads * head_dim]: float32 [rows, hidden_dim].
at::Tensor after_attention(const LoadedModel& model, int layer, const at::Tensor& hidden,
                           const at::Tensor& attended);

/// The last norm of the model: float32.
at::Tensor output_norm(const LoadedModel& model, const at::Tensor& hidden);

}  // namespace kvscope::detail
