#pragma once

#include <cstdint>

#include "kvscope/core/decision.h"

namespace kvscope {

/// What became of tokens under merging, summed over layers and KV heads. For every decision
/// held + evicted + dropped + clamped = tokens: each token is counted once, a merged slot as the
/// tokens it stands for.
struct MergeBooks {
  std::int64_t tokens = 0;         ///< layers x KV heads x tokens
  std::int64_t removed_slots = 0;  ///< fates M, E and D
  std::int64_t dropped_slots = 0;  ///< fate D
  double held = 0;                 ///< multiplicities of the slots that are left
  double evicted = 0;              ///< stood in slots that were evicted
  double dropped = 0;              ///< stood in slots that a merge dropped
  double clamped = 0;  ///< merged, but not counted: a limit on multiplicities, or a merger that
                       ///< does not count
};

/// Follows multiplicities through the merge edges, event by event. A decision that skips tokens
/// counts them as held.
MergeBooks merge_books(const Decision& decision);

}  // namespace kvscope
