#include "kvscope/scene/moment.h"

#include <algorithm>

namespace kvscope {
namespace {

/// Step of the moment at which `seen` tokens have passed, when the prompt ends at `prompt`.
int step_at(int seen, int prompt) {
  return std::max(0, seen - prompt);
}

char holding_letter(char final_letter) {
  return final_letter == 'P' || final_letter == 'T' ? final_letter : 'K';
}

/// Index of the state's moment in `all`; the last for a state at the end or beyond.
std::size_t index_of(const std::vector<RunMoment>& all, const State& state) {
  if (state.seen < 0) {
    return all.size() - 1;
  }
  std::size_t best = 0;
  for (std::size_t index = 0; index < all.size(); ++index) {
    const bool reached = all[index].seen < state.seen ||
                         (all[index].seen == state.seen && (all[index].before || !state.before));
    best = reached ? index : best;
  }
  return best;
}

}  // namespace

std::vector<RunMoment> moments(const Decision& decision, int prompt) {
  std::vector<RunMoment> all;
  prompt = prompt <= 0 ? decision.tokens : std::min(prompt, decision.tokens);
  int seen = 0;
  int applied = 0;
  const auto pass = [&](int until) {  // decode steps that no cut falls on
    for (seen = std::max(seen + 1, prompt); seen < until; ++seen) {
      all.push_back({seen, false, step_at(seen, prompt), applied, false});
    }
  };
  for (std::size_t index = 0; index < decision.events.size(); ++index) {
    const DecisionEvent& event = decision.events[index];
    if (!all.empty() && event.tokens_seen <= all.back().seen) {  // several cuts at one moment
      all.back().applied = ++applied;
      continue;
    }
    pass(event.tokens_seen);
    seen = event.tokens_seen;
    all.push_back({seen, true, event.step, applied, true});
    all.push_back({seen, false, event.step, ++applied, true});
  }
  pass(decision.tokens + 1);
  if (all.empty() && decision.tokens > 0) {
    all.push_back({decision.tokens, false, 0, 0, false});
  }
  return all;
}

std::vector<MomentCounts> moment_counts(const Decision& decision, int prompt) {
  const std::vector<RunMoment> all = moments(decision, prompt);
  std::vector<MomentCounts> counts(all.size());
  std::vector<std::size_t> after(decision.events.size(), 0);  // moment right after each cut
  for (std::size_t cut = 0; cut < after.size(); ++cut) {
    after[cut] = cut > 0 ? after[cut - 1] : 0;
    while (after[cut] + 1 < all.size() && all[after[cut]].applied <= static_cast<int>(cut)) {
      ++after[cut];
    }
  }
  for (const LayerDecision& layer : decision.layers) {
    for (std::size_t cell = 0; cell < layer.removed_at.size(); ++cell) {
      if (layer.removed_at[cell] >= after.size()) {
        continue;
      }
      MomentCounts& at = counts[after[layer.removed_at[cell]]];
      at.merged += layer.fate[cell] == Fate::merged ? 1 : 0;
      at.dropped += layer.fate[cell] == Fate::dropped ? 1 : 0;
      at.evicted += layer.fate[cell] == Fate::evicted ? 1 : 0;
    }
  }
  const auto heads = static_cast<std::int64_t>(decision.layers.size()) * decision.kv_heads;
  std::int64_t held = 0;
  std::int64_t whole = 0;
  int seen = 0;
  for (std::size_t index = 0; index < all.size(); ++index) {
    MomentCounts& at = counts[index];
    at.arrived = heads * (std::min(all[index].seen, decision.tokens) - seen);
    seen = std::min(all[index].seen, decision.tokens);
    held += at.arrived - at.evicted - at.merged - at.dropped;
    at.held = held;
    whole = all[index].cut && !all[index].before ? 0 : whole + at.arrived;
    at.whole = whole;
  }
  return counts;
}

int cuts_applied(const Decision& decision, const State& state) {
  if (state.seen < 0) {
    return static_cast<int>(decision.events.size());
  }
  return static_cast<int>(std::count_if(
      decision.events.begin(), decision.events.end(), [&](const DecisionEvent& event) {
        return event.tokens_seen < state.seen || (event.tokens_seen == state.seen && !state.before);
      }));
}

int tokens_seen(const Decision& decision, const State& state) {
  return state.seen < 0 ? decision.tokens : std::min(state.seen, decision.tokens);
}

std::string letters_at(const SceneDecision& entry, int row, const State& state) {
  const auto at = static_cast<std::size_t>(row);
  if (state.seen < 0) {
    return entry.letters[at];
  }
  const LayerDecision& layer = entry.decision.layers[at];
  const auto applied = static_cast<std::uint32_t>(cuts_applied(entry.decision, state));
  const int seen = tokens_seen(entry.decision, state);
  std::string letters = entry.letters[at];
  for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
    for (int token = 0; token < layer.tokens; ++token) {
      const std::size_t cell = layer.cell(kv_head, token);
      if (token >= seen) {
        letters[cell] = 'N';
      } else if (layer.removed_at[cell] >= applied) {
        letters[cell] = holding_letter(letters[cell]);
      }
    }
  }
  if (std::count(letters.begin(), letters.end(), 'T') > 0 || applied > 0) {
    // A slot is a target only once something was folded into it.
    std::string with_edges = letters;
    std::replace(with_edges.begin(), with_edges.end(), 'T', 'K');
    for (const MergeEdge& edge : layer.edges) {
      const std::size_t target = layer.cell(edge.kv_head, edge.target);
      const bool holds = with_edges[target] == 'K' || with_edges[target] == 'P';
      if (edge.source != edge.target && static_cast<std::uint32_t>(edge.event) < applied && holds) {
        with_edges[target] = 'T';
      }
    }
    letters = std::move(with_edges);
  }
  return letters;
}

State moved_in_time(const Scene& scene, State state, int by, bool cuts_only) {
  if (scene.decisions.empty()) {
    return state;
  }
  const std::vector<RunMoment> all = moments(
      scene.decisions[static_cast<std::size_t>(state.a)].decision, scene.tokens.prompt_tokens);
  if (all.empty()) {
    return state;
  }
  const auto last = static_cast<int>(all.size()) - 1;
  int index = static_cast<int>(index_of(all, state));
  do {
    index = std::clamp(index + by, 0, last);
  } while (
      cuts_only && index > 0 && index < last &&
      !(all[static_cast<std::size_t>(index)].cut && !all[static_cast<std::size_t>(index)].before));
  index = std::clamp(index, 0, last);
  const RunMoment& moment = all[static_cast<std::size_t>(index)];
  state.seen = index == last ? -1 : moment.seen;
  state.before = index != last && moment.before;
  return state;
}

SlotBytes slot_bytes(const CacheForm& form, int head_dim, int number_bytes) {
  const std::int64_t row = std::int64_t{head_dim} * number_bytes;
  return {2 * row, row + value_row_bytes(form, head_dim, number_bytes)};
}

std::int64_t bytes_held(std::int64_t held, std::int64_t whole, const SlotBytes& slot) {
  return whole * slot.whole + (held - whole) * slot.cut;
}

CacheUse cache_use(const Decision& decision, const SlotBytes& slot) {
  const std::vector<RunMoment> all = moments(decision, decision.tokens);
  const std::vector<MomentCounts> counts = moment_counts(decision, decision.tokens);
  CacheUse use;
  use.full_slots = static_cast<std::int64_t>(decision.layers.size()) * decision.kv_heads *
                   static_cast<std::int64_t>(decision.tokens);
  double slots = 0;
  double bytes = 0;
  double weight = 0;
  bool cut = false;
  for (std::size_t index = 0; index < all.size(); ++index) {
    use.last_slots = counts[index].held;
    use.last_whole = counts[index].whole;
    use.last_bytes = bytes_held(use.last_slots, use.last_whole, slot);
    const bool last = index + 1 == all.size();
    cut = cut || (all[index].cut && !all[index].before);
    if (!cut) {
      use.first_slots = use.last_slots;
      continue;
    }
    // Until the next moment one slot for each head arrives with every token.
    const int tokens = last ? 1 : all[index + 1].seen - all[index].seen;
    const double growth = last || tokens < 2 ? 0.0
                                             : static_cast<double>(counts[index + 1].arrived) *
                                                   (tokens - 1) / (2.0 * tokens);
    use.peak_slots = std::max(use.peak_slots, use.last_slots);
    use.peak_bytes = std::max(use.peak_bytes, use.last_bytes);
    slots += tokens * (static_cast<double>(use.last_slots) + growth);
    bytes +=
        tokens * (static_cast<double>(use.last_bytes) + growth * static_cast<double>(slot.whole));
    weight += tokens;
  }
  if (!cut) {
    use.peak_slots = use.last_slots;
    use.peak_bytes = use.last_bytes;
  }
  use.mean_slots = weight > 0 ? slots / weight : static_cast<double>(use.last_slots);
  use.mean_bytes = weight > 0 ? bytes / weight : static_cast<double>(use.last_bytes);
  return use;
}

}  // namespace kvscope
