#include "kvscope/scene/merges.h"

#include <algorithm>
#include <map>

#include "kvscope/core/merge_books.h"
#include "kvscope/scene/moment.h"
#include "kvscope/scene/token_strip.h"

namespace kvscope {
namespace {

/// Edges of one head that have happened, grouped by target.
std::map<int, MergeSlot> slots_of(const LayerDecision& layer, int kv_head, std::uint32_t applied) {
  std::map<int, MergeSlot> slots;
  for (const MergeEdge& edge : layer.edges) {
    if (edge.kv_head != kv_head || static_cast<std::uint32_t>(edge.event) >= applied) {
      continue;
    }
    MergeSlot& slot = slots[edge.target];
    slot.target = edge.target;
    slot.sources.push_back({edge.source, edge.event, static_cast<double>(edge.key_weight),
                            static_cast<double>(edge.value_weight), static_cast<double>(edge.count),
                            edge.source == edge.target, edge.key_row >= 0});
  }
  std::erase_if(slots, [](const auto& entry) {
    return std::all_of(entry.second.sources.begin(), entry.second.sources.end(),
                       [](const MergeSource& source) { return source.own; });
  });
  return slots;
}

/// A target's multiplicity: its own share at its first merge, and what each source brought.
void add_up(MergeSlot& slot) {
  std::stable_sort(slot.sources.begin(), slot.sources.end(),
                   [](const MergeSource& a, const MergeSource& b) {
                     return a.event != b.event ? a.event < b.event : a.token < b.token;
                   });
  const auto own = std::find_if(slot.sources.begin(), slot.sources.end(),
                                [](const MergeSource& source) { return source.own; });
  slot.before = own != slot.sources.end() ? own->count : 1;
  slot.after = slot.before;
  for (const MergeSource& source : slot.sources) {
    slot.after += source.own ? 0 : source.count;
  }
}

}  // namespace

MergeGraph merge_graph(const Decision& decision, int row, int kv_head, const State& state) {
  MergeGraph graph;
  const LayerDecision& layer = decision.layers[static_cast<std::size_t>(row)];
  const auto applied = static_cast<std::uint32_t>(cuts_applied(decision, state));
  graph.seen = tokens_seen(decision, state);
  std::map<int, MergeSlot> slots = slots_of(layer, kv_head, applied);
  int held = 0;
  for (int token = 0; token < graph.seen; ++token) {
    const std::size_t cell = layer.cell(kv_head, token);
    const bool gone = layer.removed_at[cell] < applied;
    held += gone ? 0 : 1;
    if (gone && layer.fate[cell] == Fate::dropped) {
      graph.dropped.push_back(token);
    }
    graph.merged += gone && layer.fate[cell] == Fate::merged ? 1 : 0;
  }
  graph.multiplicity = held;
  for (auto& [target, slot] : slots) {
    add_up(slot);
    slot.alive = layer.removed_at[layer.cell(kv_head, target)] >= applied;
    graph.multiplicity += slot.alive ? slot.after - 1 : 0;
    graph.slots.push_back(std::move(slot));
  }
  const MergeBooks books = merge_books(decision, row, kv_head, static_cast<int>(applied));
  graph.lost = books.evicted + books.dropped;
  graph.not_counted = books.clamped + books.uncounted;
  graph.counts = graph.merged == 0 || counts_merged(decision);
  return graph;
}

MergeGraph merge_graph(const Scene& scene, const State& state) {
  const std::vector<int> heads = selected_heads(scene, state);
  if (scene.decisions.empty() || heads.empty()) {
    return {};
  }
  return merge_graph(scene.decisions[static_cast<std::size_t>(state.a)].decision, state.layer,
                     heads.front(), state);
}

}  // namespace kvscope
