#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "kvscope/core/shape.h"
#include "layer_state.h"
#include "layer_weights.h"
#include "rotation.h"

namespace kvscope::detail {

// Steps of the forward pass on tensors: fused row loops on the CPU, LibTorch operators elsewhere.
// `plain` forces the operators; they define what the loops compute.

/// Rows of the embedding as float32 [tokens, hidden_dim], times `scale` rounded to its type.
at::Tensor embed(const WeightMatrix& embedding, std::span<const std::int32_t> ids,
                 double scale = 1);

/// out[r] = x[r] / rms(x[r]) * weight; x float32 [rows, hidden_dim], out float32 or in the model's
/// type.
void rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out,
              bool plain = false);

/// The model's norm of x: `rms_norm`, or (x - mean) / deviation * weight + bias.
void normalise(const at::Tensor& x, const NormWeights& norm, const ModelConfig& config,
               at::Tensor& out);

/// RMS norm of each of `heads` heads of x [rows, ...] from column `first` on, in place; weight
/// [head_dim].
void norm_heads(at::Tensor& x, std::int64_t first, int heads, const at::Tensor& weight,
                double epsilon, bool plain = false);

/// act(x), element by element, in a new tensor; autograd follows it.
at::Tensor activated(const at::Tensor& x, Activation activation);

/// out = act(gate) * up of gate_up [rows, 2 mlp_dim], gate first; out = act(up) of [rows, mlp_dim]
/// where the MLP is not gated.
void activate(const at::Tensor& gate_up, Activation activation, at::Tensor& out,
              bool plain = false);

/// x weight^T + bias, all in the model's type: [rows, rows of weight]; no bias where it is
/// undefined. One row on the CPU goes through `WeightMatrix::times`.
at::Tensor multiply(const at::Tensor& x, const WeightMatrix& weight, const at::Tensor& bias);

/// hidden += x weight^T; hidden float32 [rows, hidden_dim], x and weight in the model's type.
void add_product(const at::Tensor& x, const WeightMatrix& weight, at::Tensor& hidden);

/// Splits qkv [rows, (query_heads + 2 kv_heads) * head_dim], rotates queries and keys, and writes
/// keys and values behind the live slots of `state` (room reserved). Queries: float32 [query_heads,
/// rows, head_dim] into `queries`.
void split_heads(const at::Tensor& qkv, const Rotation& rotation, const ModelShape& shape,
                 const LayerState& state, at::Tensor& queries, bool plain = false);

}  // namespace kvscope::detail
