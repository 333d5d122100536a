#pragma once

#include <ATen/core/Tensor.h>

#include "kvscope/core/decision.h"
#include "kvscope/core/slots.h"

namespace kvscope {

/// One layer's cache, as stored. Cells beyond a head's length are zero.
struct LayerCache {
  at::Tensor keys;    ///< [kv_heads, slots, head_dim] in the form's frame
  at::Tensor values;  ///< [kv_heads, slots, head_dim] mean or sum, as the form says
  SlotTable slots;
};

/// Applies the part of `decision` that belongs to `event` (-1: all events at once) to `cache`: gathers
/// the kept slots in token order, folds merged ones into their targets by the edges' weights, adds
/// multiplicities. The only code that changes a cache by a decision.
///   value' = sum over edges of value_weight * value(source), the target's own edge (source == target)
///   included; without an own edge the own weight is 1 - sum of the others' (means) or 1 (sums).
///   key' likewise with key_weight (always as means), or the edge's key_row where given.
/// Sources are read as they were before their event. A target's multiplicity grows by the counts of the
/// edges from other tokens. Merges are computed in float64 and rounded once to the cache's type.
/// A layer without edges gathers bit for bit. Throws Error{usage} if decision and cache disagree: a slot
/// of a token the decision does not cover, or a token that is to stay, or to be folded, without a slot.
LayerCache apply_decision(const LayerCache& cache, const LayerDecision& decision,
                          const CacheForm& form, int event = -1);

}  // namespace kvscope
