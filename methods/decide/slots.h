#pragma once

#include "kvscope/core/slots.h"
#include "kvscope/methods/pieces.h"

namespace kvscope::detail {

/// Every head holds the tokens [0, tokens), unmerged.
bool is_full(const SlotTable& slots, int kv_heads, int tokens);

/// Throws Error{unsupported} unless every head of the layer has exactly `count` slots.
void check_even(const SlotTable& slots, int kv_heads, int count, int layer);

/// The protection of tokens as one of slots. Throws Error{unsupported} where the heads hold the
/// protected tokens in different slots.
Protection over_slots(const Protection& tokens, const SlotTable& slots, int layer);

/// Where a cut on slots belongs in the sequence.
struct CutPlace {
  const SlotTable& slots;       ///< of the cache that was cut
  const LayerDecision& before;  ///< earlier cuts of the layer
  int tokens = 0;               ///< seen so far
  int event = 0;                ///< number of this cut
};

/// The layer's whole decision over tokens: `cut`, whose tokens are slots and whose event is 0,
/// added to what was decided before.
LayerDecision over_tokens(const LayerDecision& cut, const CutPlace& place);

/// `decision` over more tokens; those that are new hold their slots.
LayerDecision extended(const LayerDecision& decision, int tokens);

}  // namespace kvscope::detail
