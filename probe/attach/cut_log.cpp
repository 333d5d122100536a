#include "cut_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace kvscope::detail {

void CutLog::note(int layer, int step, const std::vector<std::vector<bool>>& held) {
  if (events_.empty() || events_.back().step != step) {
    events_.push_back({step, static_cast<int>(held.front().size()), 0});
  }
  cuts_.push_back({layer, static_cast<int>(events_.size()) - 1, held});
}

LayerDecision CutLog::of_layer(const CaptureIndex& index, int layer, int tokens) const {
  LayerDecision decision = LayerDecision::keep_all(layer, index.shape.kv_heads, tokens);
  const int seen_by_cut = events_.back().tokens_seen;
  const float unknown = std::numeric_limits<float>::quiet_NaN();
  std::vector<const LayerCut*> cuts;
  for (const LayerCut& cut : cuts_) {
    if (cut.layer == layer) {
      cuts.push_back(&cut);
    }
  }
  for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
    for (int token = 0; token < tokens; ++token) {
      const std::size_t cell = decision.cell(kv_head, token);
      for (const LayerCut* cut : cuts) {
        const std::vector<bool>& held = cut->held[static_cast<std::size_t>(kv_head)];
        if (static_cast<std::size_t>(token) >= held.size() || decision.removed_at[cell] != alive) {
          continue;
        }
        decision.reason[cell] = Reason::score;
        if (!held[static_cast<std::size_t>(token)]) {
          decision.fate[cell] = Fate::evicted;
          decision.removed_at[cell] = static_cast<std::uint32_t>(cut->event);
        }
      }
    }
    int kept = 0;
    for (int token = 0; token < std::min(seen_by_cut, tokens); ++token) {
      kept += decision.removed_at[decision.cell(kv_head, token)] == alive ? 1 : 0;
    }
    decision.granted[static_cast<std::size_t>(kv_head)] = kept;
    decision.cut[static_cast<std::size_t>(kv_head)] = {static_cast<float>(kept), unknown, unknown};
  }
  return decision;
}

Decision CutLog::decision(const CaptureIndex& index, int tokens) const {
  Decision decision;
  decision.method = index.method;
  decision.preset = index.method.substr(0, index.method.find_first_of(":(|"));
  decision.by_method = true;
  decision.replayed = false;
  decision.capture_hash = index.capture_hash;
  decision.model_name = index.model_name;
  decision.query_heads = index.shape.query_heads;
  decision.kv_heads = index.shape.kv_heads;
  decision.head_dim = index.shape.head_dim;
  decision.tokens = tokens;
  decision.cut_tokens = events_.back().tokens_seen;
  decision.events = events_;
  for (const int layer : index.layers) {
    decision.layers.push_back(of_layer(index, layer, tokens));
  }
  decision.budget_slots = decision.granted_slots();
  const double cells =
      static_cast<double>(decision.layers.size()) * decision.kv_heads * decision.cut_tokens;
  decision.keep = fmt::format("{:.4f}", static_cast<double>(decision.budget_slots) / cells);
  return decision;
}

}  // namespace kvscope::detail
