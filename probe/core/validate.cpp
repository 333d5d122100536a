#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "kvscope/core/decision.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

bool holds_slot(Fate fate) {
  return fate == Fate::kept || fate == Fate::skipped;
}

/// Checks one layer; `report` collects a sentence for each broken rule, at most a few per layer.
class LayerCheck {
 public:
  LayerCheck(const Decision& decision, const LayerDecision& layer, std::vector<std::string>& report)
      : decision_(decision), layer_(layer), report_(report) {}

  void run() {
    if (!sizes()) {
      return;
    }
    edges();
    cells();
    counts();
  }

 private:
  void say(const std::string& sentence) {
    if (said_++ < 4) {
      report_.push_back(fmt::format("layer {}: {}", layer_.layer, sentence));
    }
  }

  bool sizes() {
    const std::size_t cells =
        static_cast<std::size_t>(layer_.kv_heads) * static_cast<std::size_t>(layer_.tokens);
    const auto heads = static_cast<std::size_t>(layer_.kv_heads);
    const bool agree =
        layer_.kv_heads == decision_.kv_heads && layer_.tokens == decision_.tokens &&
        layer_.fate.size() == cells && layer_.reason.size() == cells &&
        layer_.removed_at.size() == cells && layer_.granted.size() == heads &&
        layer_.cut.size() == heads && (layer_.scores.empty() || layer_.scores.size() == cells) &&
        (layer_.terms.empty() || layer_.terms.size() == cells * decision_.term_names.size());
    if (!agree) {
      say(fmt::format("planes do not have {} KV heads x {} tokens", decision_.kv_heads,
                      decision_.tokens));
    }
    return agree;
  }

  void edges() {
    for (const MergeEdge& edge : layer_.edges) {
      if (edge.kv_head < 0 || edge.kv_head >= layer_.kv_heads || edge.source < 0 ||
          edge.source >= layer_.tokens || edge.target < 0 || edge.target >= layer_.tokens ||
          edge.event < 0 || edge.event >= static_cast<int>(decision_.events.size()) ||
          (edge.key_row >= 0 &&
           (layer_.key_row_dim <= 0 || static_cast<std::size_t>(edge.key_row + 1) *
                                               static_cast<std::size_t>(layer_.key_row_dim) >
                                           layer_.key_rows.size()))) {
        say(fmt::format("merge edge {} -> {} of KV head {} is out of range", edge.source,
                        edge.target, edge.kv_head));
        continue;
      }
      if (!std::isfinite(edge.key_weight) || !std::isfinite(edge.value_weight) ||
          !std::isfinite(edge.count)) {
        say(fmt::format("merge edge {} -> {} has a weight that is not finite", edge.source,
                        edge.target));
      }
      const std::size_t target = layer_.cell(edge.kv_head, edge.target);
      if (layer_.removed_at[target] != alive &&
          layer_.removed_at[target] < static_cast<std::uint32_t>(edge.event)) {
        say(fmt::format("merge edge {} -> {}: the target had lost its slot before event {}",
                        edge.source, edge.target, edge.event));
      }
      if (edge.source != edge.target) {
        given_.insert({edge.kv_head, edge.source});
      }
    }
  }

  void cells() {
    for (int kv_head = 0; kv_head < layer_.kv_heads; ++kv_head) {
      for (int token = 0; token < layer_.tokens; ++token) {
        cell(kv_head, token);
      }
    }
  }

  void cell(int kv_head, int token) {
    const std::size_t at = layer_.cell(kv_head, token);
    const Fate fate = layer_.fate[at];
    const std::uint32_t removed = layer_.removed_at[at];
    if (fate > Fate::skipped || layer_.reason[at] > Reason::merger_declined) {
      say(fmt::format("KV head {} token {} has an unknown fate or reason", kv_head, token));
      return;
    }
    if (holds_slot(fate) != (removed == alive)) {
      say(fmt::format("KV head {} token {} is {} but removed_at says otherwise", kv_head, token,
                      fate_letter(layer_, kv_head, token)));
    }
    if (removed != alive && removed >= decision_.events.size()) {
      say(fmt::format("KV head {} token {} was removed at event {}, of {}", kv_head, token, removed,
                      decision_.events.size()));
    }
    const bool gave = !given_.empty() && given_.count({kv_head, token}) > 0;
    if (fate == Fate::merged && !gave) {
      say(fmt::format("KV head {} token {} is merged without an edge to another token", kv_head,
                      token));
    }
    if (fate != Fate::merged && gave) {
      say(fmt::format("KV head {} token {} has an edge to another token but is {}", kv_head, token,
                      fate_letter(layer_, kv_head, token)));
    }
  }

  void counts() {
    const int last_event = static_cast<int>(decision_.events.size()) - 1;
    const int seen = last_event < 0 ? 0 : std::min(decision_.cut_tokens, layer_.tokens);
    for (int kv_head = 0; kv_head < layer_.kv_heads && last_event >= 0; ++kv_head) {
      int held = 0;
      for (int token = 0; token < seen; ++token) {
        held += holds_slot(layer_.fate[layer_.cell(kv_head, token)]) ? 1 : 0;
      }
      const int granted = layer_.granted[static_cast<std::size_t>(kv_head)];
      if (held > granted) {
        say(fmt::format("KV head {} holds {} slots of {} granted", kv_head, held, granted));
      }
    }
  }

  const Decision& decision_;
  const LayerDecision& layer_;
  std::vector<std::string>& report_;
  std::set<std::pair<int, int>> given_;
  int said_ = 0;
};

}  // namespace

std::vector<std::string> violations(const Decision& decision) {
  std::vector<std::string> report;
  if (decision.kv_heads <= 0 || decision.tokens < 0 || decision.cut_tokens > decision.tokens) {
    report.push_back(fmt::format("{} KV heads, {} tokens, {} seen by the cut: sizes contradict",
                                 decision.kv_heads, decision.tokens, decision.cut_tokens));
    return report;
  }
  for (const LayerDecision& layer : decision.layers) {
    LayerCheck(decision, layer, report).run();
  }
  if (!decision.by_method && decision.budget_slots > 0 &&
      decision.granted_slots() != decision.budget_slots) {
    report.push_back(fmt::format("granted slots sum to {}, the budget is {}",
                                 decision.granted_slots(), decision.budget_slots));
  }
  return report;
}

void validate(const Decision& decision, const std::string& where) {
  const std::vector<std::string> broken = violations(decision);
  if (!broken.empty()) {
    throw Error(ErrorCode::corrupt_file, "decision breaks a rule: " + broken.front(), where,
                "decide again, or report the method that wrote it");
  }
}

}  // namespace kvscope
