#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "kvscope/core/shape.h"
#include "layer_state.h"
#include "rotation.h"

namespace kvscope::detail {

// Steps of the forward pass on tensors: fused row loops on the CPU, LibTorch operators elsewhere.
// `plain` forces the operators; they define what the loops compute.

/// Rows of the embedding as float32 [tokens, hidden_dim].
at::Tensor embed(const at::Tensor& embedding, std::span<const std::int32_t> ids);

/// out[r] = x[r] / rms(x[r]) * weight; x float32 [rows, hidden_dim], out in the model's type.
void rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out,
              bool plain = false);

/// out = silu(gate) * up of gate_up [rows, 2 mlp_dim], gate first.
void swiglu(const at::Tensor& gate_up, at::Tensor& out, bool plain = false);

/// hidden += x weight^T; hidden float32 [rows, hidden_dim], x and weight in the model's type.
void add_product(const at::Tensor& x, const at::Tensor& weight, at::Tensor& hidden);

/// Splits qkv [rows, (query_heads + 2 kv_heads) * head_dim], rotates queries and keys, and writes
/// keys and values behind the live slots of `state` (room reserved). Queries: float32 [query_heads,
/// rows, head_dim] into `queries`.
void split_heads(const at::Tensor& qkv, const Rotation& rotation, const ModelShape& shape,
                 const LayerState& state, at::Tensor& queries, bool plain = false);

}  // namespace kvscope::detail
