#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// One token's content inside a slot.
struct MergeSource {
  int token = 0;
  int event = 0;
  double key_weight = 0;
  double value_weight = 0;
  double count = 0;      ///< multiplicity it carried over
  bool own = false;      ///< the target's own share
  bool key_row = false;  ///< the finished key row is stored and wins over `key_weight`
};

/// A slot that absorbed other tokens.
struct MergeSlot {
  int target = 0;
  std::vector<MergeSource> sources;  ///< by event, then token; the target's own share included
  double before = 1;                 ///< multiplicity of the target before its first merge
  double after = 1;                  ///< multiplicity at the moment of the state
  bool alive = true;                 ///< still holds its slot then
};

/// What merging did in one layer and KV head by the moment of a state.
struct MergeGraph {
  std::vector<MergeSlot> slots;  ///< ascending target
  std::vector<int> dropped;      ///< tokens a merge removed without folding them in (fate D)
  int merged = 0;                ///< tokens folded into others
  double multiplicity = 0;       ///< sum over the slots that are held, all of them
  int seen = 0;                  ///< tokens that had passed: multiplicity + lost + not_counted
  double lost = 0;               ///< tokens in no slot: evicted, dropped, or inside such a slot
  double not_counted = 0;        ///< merged into slots that do not count for them
  bool counts = true;            ///< false: the method's merged slots always count as one token
};

/// Merge edges of decision A in the state's layer and first selected KV head.
MergeGraph merge_graph(const Scene& scene, const State& state);

/// As above for one decision, layer row and KV head.
MergeGraph merge_graph(const Decision& decision, int row, int kv_head, const State& state);

}  // namespace kvscope
