#pragma once

#include <string>
#include <vector>

#include "kvscope/core/decision.h"

namespace kvscope {

/// A decision from letters: made[layer][kv_head] = one of K P E M D S for each token. A head's
/// merged tokens all fold into its first K, which thereby becomes T. Granted = slots held.
inline Decision made_decision(const std::vector<std::vector<std::string>>& made,
                              int group_size = 1) {
  Decision decision;
  decision.method = "made:by=hand";
  decision.preset = "made";
  decision.descriptor_json = "{}";
  decision.keep = "0.5";
  decision.capture_hash = "0123456789abcdef";
  decision.model_name = "hand";
  decision.kv_heads = static_cast<int>(made.front().size());
  decision.query_heads = decision.kv_heads * group_size;
  decision.head_dim = 4;
  decision.tokens = static_cast<int>(made.front().front().size());
  decision.cut_tokens = decision.tokens;
  decision.events.push_back({0, decision.tokens, 0});
  for (std::size_t row = 0; row < made.size(); ++row) {
    LayerDecision layer =
        LayerDecision::keep_all(static_cast<int>(row), decision.kv_heads, decision.tokens);
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      const std::string& letters = made[row][static_cast<std::size_t>(kv_head)];
      int target = static_cast<int>(letters.find('K'));
      bool has_edges = false;
      for (int token = 0; token < decision.tokens; ++token) {
        const std::size_t cell = layer.cell(kv_head, token);
        const char letter = letters[static_cast<std::size_t>(token)];
        layer.reason[cell] = letter == 'P' ? Reason::sink : Reason::score;
        layer.fate[cell] = letter == 'M'   ? Fate::merged
                           : letter == 'E' ? Fate::evicted
                           : letter == 'D' ? Fate::dropped
                           : letter == 'S' ? Fate::skipped
                                           : Fate::kept;
        if (letter == 'M' || letter == 'E' || letter == 'D') {
          layer.removed_at[cell] = 0;
        }
        if (letter == 'M') {
          has_edges = true;
        }
      }
      if (has_edges) {
        for (int token = 0; token < decision.tokens; ++token) {
          if (letters[static_cast<std::size_t>(token)] == 'M' || token == target) {
            layer.edges.push_back({kv_head, token, target, 0, 0.5f, 0.5f, 1, -1});
          }
        }
      }
      layer.granted[static_cast<std::size_t>(kv_head)] = layer.kept(kv_head);
    }
    decision.layers.push_back(layer);
  }
  decision.budget_slots = decision.granted_slots();
  return decision;
}

}  // namespace kvscope
