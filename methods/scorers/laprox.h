#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "kvscope/evidence/layer_evidence.h"

namespace kvscope::detail {

/// Ways to combine the query heads of a group (specs/laprox.md 6) that need more than column norms
/// and projected norms. Each returns [kv_heads, candidates].

/// ||mean_h A^h[:, i]||_2 from attention [query_heads, window, candidates].
at::Tensor mean_column_norm(const at::Tensor& attention, int kv_heads);

/// ||v_i sum_h W_O^h||_2 from values [kv_heads, candidates, head_dim] and output weights
/// [query_heads, head_dim, hidden_dim].
at::Tensor summed_projection_norm(const at::Tensor& values, const at::Tensor& output_weights);

/// ||sum_h A^h[:, i] (x) v_i W_O^h||_F: the exact contribution of a KV entry.
at::Tensor exact_contribution(const at::Tensor& attention, const at::Tensor& values,
                              const at::Tensor& output_weights);

}  // namespace kvscope::detail
