#pragma once

#include "attention_backward.h"
#include "differentiable.h"
#include "layer_state.h"

namespace kvscope::detail {

/// Attention of a pass over the cache of one layer, which holds its slots already; `lse` and
/// `output` are left to the caller. In float32 keys and values are the cache's; in float64 they are
/// what the cache stores, turned in float64, followed by the pass's own rows of `projected`. Throws
/// Error{unsupported} for what gradients cannot go back through: ragged caches, sliding windows,
/// rotations that grow.
AttentionTrace cached_attention(const DifferentiableModel& model, const LayerState& state,
                                int layer, const Projected& projected);

}  // namespace kvscope::detail
