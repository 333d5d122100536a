#pragma once

#include "cadences/pair_weigher.h"
#include "kvscope/core/decision.h"

namespace kvscope::detail {

/// What is kept of a layer's scores, on request.
struct LedgerOptions {
  bool scores = false;
  bool terms = false;
};

/// Names of the terms a pair's score is made of, as `enter_cut` writes them.
inline constexpr int pair_terms = 3;

/// Widens a layer's decision to `tokens`: new tokens hold their slots, within the budget.
void widen(LayerDecision& decision, int tokens);

/// Enters one cut into a layer's decision, which covers the tokens of `view`'s past: merges the
/// `remove` cheapest pairs, all KV heads alike, as event `event`. A run of neighbouring pairs
/// becomes its first pair's slot, the rest dropped as the authors' code drops them, or one slot
/// where the rule chains. A pair's score stands at its right slot, the one that would go.
void enter_cut(const ChunkView& view, const PairMergeRule& rule, PairWeigher& weigher, int remove,
               int event, const LedgerOptions& options, LayerDecision& decision);

}  // namespace kvscope::detail
