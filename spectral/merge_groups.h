#pragma once

#include <utility>
#include <vector>

#include "kvscope/core/decision.h"

namespace kvscope::spectral {

/// Tokens that end in one slot of one KV head.
struct MergeGroup {
  int slot = 0;                                 ///< token whose slot it is
  std::vector<int> members;                     ///< tokens it stands for, ascending; at least two
  std::vector<std::pair<int, double>> weights;  ///< of their rows in the slot's; sum 1
  int key_row = -1;                             ///< row of LayerDecision::key_rows, or -1
};

/// Follows the edges of one KV head, event by event: a slot that has merged goes on with what it
/// holds. `weight` picks the keys' or the values' share. A target without an edge from itself has
/// what the others leave of 1, or 1 where the cache holds sums (`apply_decision`); shares are then
/// divided by their sum, so summed values count as their mean. A token with several targets belongs
/// to the one with its largest share. Tokens from `tokens` on are left out.
std::vector<MergeGroup> merge_groups(const LayerDecision& layer, int kv_head, int tokens,
                                     float MergeEdge::*weight, CacheForm::Values form);

}  // namespace kvscope::spectral
