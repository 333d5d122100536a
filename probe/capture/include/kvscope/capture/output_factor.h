#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope {

/// L of W_O^h = L_h U_h with U_h orthonormal rows, which is all that norms of projected values need
/// (specs/probe.md 3.5). weights [query_heads, head_dim, hidden_dim] float32 -> [query_heads,
/// head_dim, head_dim] float32.
at::Tensor output_factor(const at::Tensor& weights);

}  // namespace kvscope
