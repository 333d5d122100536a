#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// A point of a run that the timeline can show. `seen` tokens have passed the model; `before`: the
/// cut made there has not happened yet.
struct RunMoment {
  int seen = 0;
  bool before = false;
  int step = 0;      ///< decode step; 0 = prefill
  int applied = 0;   ///< cuts made so far
  bool cut = false;  ///< a cut happens here: this is the half-step before or after it
  bool operator==(const RunMoment&) const = default;
};

/// What happened to the cache at one moment, over all layers and KV heads.
struct MomentCounts {
  std::int64_t held = 0;     ///< slots that exist
  std::int64_t whole = 0;    ///< those of them that came since the latest cut
  std::int64_t arrived = 0;  ///< since the moment before
  std::int64_t evicted = 0;  ///< by the cut of this moment
  std::int64_t merged = 0;
  std::int64_t dropped = 0;
};

/// Every moment of a decision's run: before and after each cut, and each decode step in between, in
/// order. Prefill passes at once but for its cuts; decode steps begin after `prompt` tokens. Never
/// empty for a decision that covers tokens.
std::vector<RunMoment> moments(const Decision& decision, int prompt);

/// Slots and changes at each of `moments`. Cost: one pass over all cells.
std::vector<MomentCounts> moment_counts(const Decision& decision, int prompt);

/// Cuts that have happened at the moment a state shows; all of them when it shows the end.
int cuts_applied(const Decision& decision, const State& state);

/// Tokens that have passed the model then; all covered ones at the end.
int tokens_seen(const Decision& decision, const State& state);

/// Fate letters of one layer (row among the captured ones) at the moment of the state:
/// [kv_heads, tokens], N for tokens that were not there yet.
std::string letters_at(const SceneDecision& entry, int row, const State& state);

/// The state moved to the next (`by` > 0) or previous moment; with `cuts_only` to the next moment
/// right after a cut. Stays where there is none.
State moved_in_time(const Scene& scene, State state, int by, bool cuts_only);

/// Bytes of one slot: as the model computes it, and as a cut leaves it.
struct SlotBytes {
  std::int64_t whole = 1;
  std::int64_t cut = 1;
};
SlotBytes slot_bytes(const CacheForm& form, int head_dim, int number_bytes);

/// Bytes of `held` slots, `whole` of which no cut has passed.
std::int64_t bytes_held(std::int64_t held, std::int64_t whole, const SlotBytes& slot);

/// The cache over a decision's run: what a statement of memory rests on.
struct CacheUse {
  std::int64_t full_slots = 0;   ///< an uncompressed cache at the end
  std::int64_t first_slots = 0;  ///< just before the first cut: what any method needs until then
  std::int64_t peak_slots = 0;   ///< most from the first cut on
  double mean_slots = 0;         ///< mean over the tokens from the first cut on
  std::int64_t last_slots = 0;   ///< at the end
  std::int64_t last_whole = 0;   ///< those of them that came after the last cut
  std::int64_t peak_bytes = 0;
  double mean_bytes = 0;
  std::int64_t last_bytes = 0;
};
CacheUse cache_use(const Decision& decision, const SlotBytes& slot = {});

}  // namespace kvscope
