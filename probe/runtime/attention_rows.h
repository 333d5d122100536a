#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "kvscope/core/shape.h"
#include "kvscope/kernels/attention_stats.h"
#include "layer_state.h"

namespace kvscope::detail {

/// Attention probabilities of a few queries over a live cache, ragged and merged ones included:
/// [query_heads, queries, slots] float32, rows sum to 1, cells beyond a head's length 0.
/// queries [query_heads, queries, head_dim] post-RoPE; a slot is visible to the queries at its
/// position and after it (within the layer's window). A row that sees nothing is all zero.
at::Tensor attention_rows(const at::Tensor& queries, std::span<const std::int32_t> positions,
                          const LayerState& state, const ModelShape& shape, int layer);

/// Attention by position rather than by slot: what a sliding window needs once its layer was cut.
/// Output and LSE as `attention_with_lse` gives them, a block of queries at a time.
AttentionResult attend_by_position(const at::Tensor& queries,
                                   std::span<const std::int32_t> positions, const LayerState& state,
                                   const ModelShape& shape, int layer);

}  // namespace kvscope::detail
