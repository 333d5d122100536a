#include "kvscope/core/decision.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

namespace kvscope {
namespace {

bool held_by_rule(Reason reason) {
  return reason == Reason::sink || reason == Reason::recent || reason == Reason::head_floor ||
         reason == Reason::rule || reason == Reason::observation_window;
}

char letter(Fate fate, Reason reason) {
  switch (fate) {
    case Fate::kept:
      return held_by_rule(reason) ? 'P' : 'K';
    case Fate::merged:
      return 'M';
    case Fate::evicted:
      return 'E';
    case Fate::dropped:
      return 'D';
    case Fate::skipped:
      return 'S';
  }
  return '?';
}

}  // namespace

int LayerDecision::kept(int kv_head) const {
  const auto first = fate.begin() + static_cast<std::ptrdiff_t>(cell(kv_head, 0));
  return static_cast<int>(std::count_if(
      first, first + tokens, [](Fate f) { return f == Fate::kept || f == Fate::skipped; }));
}

LayerDecision LayerDecision::keep_all(int layer, int kv_heads, int tokens) {
  LayerDecision decision;
  decision.layer = layer;
  decision.kv_heads = kv_heads;
  decision.tokens = tokens;
  const std::size_t cells = static_cast<std::size_t>(kv_heads) * static_cast<std::size_t>(tokens);
  decision.fate.assign(cells, Fate::kept);
  decision.reason.assign(cells, Reason::within_budget);
  decision.removed_at.assign(cells, alive);
  decision.granted.assign(static_cast<std::size_t>(kv_heads), tokens);
  decision.cut.assign(static_cast<std::size_t>(kv_heads),
                      {static_cast<float>(tokens), std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::quiet_NaN()});
  return decision;
}

std::int64_t Decision::granted_slots() const {
  std::int64_t total = 0;
  for (const LayerDecision& layer : layers) {
    total = std::accumulate(layer.granted.begin(), layer.granted.end(), total);
  }
  return total;
}

std::int64_t Decision::kept_slots() const {
  std::int64_t total = 0;
  for (const LayerDecision& layer : layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      total += layer.kept(kv_head);
    }
  }
  return total;
}

char fate_letter(const LayerDecision& layer, int kv_head, int token) {
  const std::size_t cell = layer.cell(kv_head, token);
  if (layer.fate[cell] == Fate::kept) {
    for (const MergeEdge& edge : layer.edges) {
      if (edge.kv_head == kv_head && edge.target == token && edge.source != token) {
        return 'T';
      }
    }
  }
  return letter(layer.fate[cell], layer.reason[cell]);
}

std::string fate_letters(const LayerDecision& layer) {
  std::string letters(layer.fate.size(), '?');
  for (std::size_t cell = 0; cell < letters.size(); ++cell) {
    letters[cell] = letter(layer.fate[cell], layer.reason[cell]);
  }
  for (const MergeEdge& edge : layer.edges) {
    const std::size_t target = layer.cell(edge.kv_head, edge.target);
    if (edge.source != edge.target && layer.fate[target] == Fate::kept) {
      letters[target] = 'T';
    }
  }
  return letters;
}

const char* reason_name(Reason reason) {
  static constexpr std::array<const char*, 9> names = {
      "score",          "sink",      "recent", "head floor",
      "within budget",  "threshold", "rule",   "observation window",
      "merger declined"};
  const auto index = static_cast<std::size_t>(reason);
  return index < names.size() ? names[index] : "unknown";
}

}  // namespace kvscope
