#pragma once

#include <cstdint>

#include "kvscope/core/decision.h"

namespace kvscope {

/// What became of tokens under merging, summed over layers and KV heads. For every decision
/// held + evicted + dropped + clamped + uncounted = tokens: each token is counted once, a merged
/// slot as the tokens it stands for.
struct MergeBooks {
  std::int64_t tokens = 0;         ///< layers x KV heads x tokens
  std::int64_t removed_slots = 0;  ///< fates M, E and D
  std::int64_t dropped_slots = 0;  ///< fate D
  double held = 0;                 ///< multiplicities of the slots that are left
  double evicted = 0;              ///< stood in slots that were evicted
  double dropped = 0;              ///< stood in slots that a merge dropped
  double clamped = 0;    ///< merged beyond a limit on multiplicities
  double uncounted = 0;  ///< merged by a rule under which a slot always counts as one token
};

/// Follows multiplicities through the merge edges, event by event. A decision that skips tokens
/// counts them as held.
MergeBooks merge_books(const Decision& decision);

/// Likewise for one KV head of one layer (row among the decision's) and its first `events` events.
MergeBooks merge_books(const Decision& decision, int layer_row, int kv_head, int events);

/// Whether merged slots count for more than one token: false where no merge edge carries a
/// multiplicity over, as in kvpress's merging.
bool counts_merged(const Decision& decision);

}  // namespace kvscope
