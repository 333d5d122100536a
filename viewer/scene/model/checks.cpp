#include "kvscope/scene/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kvscope/scene/fate_counts.h"

namespace kvscope {
namespace {

using Findings = std::vector<Finding>;

bool holds_slot(Fate fate) {
  return fate == Fate::kept || fate == Fate::skipped;
}

/// Counts places and remembers the first.
struct Places {
  std::int64_t count = 0;
  int layer = -1;
  int kv_head = -1;
  int token = -1;

  void add(int layer_index, int head, int token_index = -1) {
    if (count++ == 0) {
      layer = layer_index;
      kv_head = head;
      token = token_index;
    }
  }
};

void report(Findings& findings, const char* id, Severity severity, const Places& places,
            std::string text) {
  findings.push_back(
      {id, severity, std::move(text), places.count, places.layer, places.kv_head, places.token});
}

/// Sizes and indices are such that the other checks may look.
bool readable(const Decision& decision) {
  for (const LayerDecision& layer : decision.layers) {
    const std::size_t cells = layer.cell(layer.kv_heads, 0);
    if (layer.kv_heads != decision.kv_heads || layer.tokens != decision.tokens ||
        layer.fate.size() != cells || layer.reason.size() != cells ||
        layer.removed_at.size() != cells ||
        (!layer.scores.empty() && layer.scores.size() != cells) ||
        (!layer.cut.empty() && layer.cut.size() != static_cast<std::size_t>(layer.kv_heads))) {
      return false;
    }
    for (const MergeEdge& edge : layer.edges) {
      if (std::min({edge.kv_head, edge.source, edge.target}) < 0 ||
          edge.kv_head >= layer.kv_heads || std::max(edge.source, edge.target) >= layer.tokens) {
        return false;
      }
    }
  }
  return !decision.layers.empty();
}

void check_rules(const Decision& decision, Findings& findings) {
  const std::vector<std::string> broken = violations(decision);
  if (!broken.empty()) {
    findings.push_back({"rules", Severity::error,
                        fmt::format("{} (and {} more)", broken.front(), broken.size() - 1),
                        static_cast<std::int64_t>(broken.size()), -1, -1, -1});
    if (broken.size() == 1) {
      findings.back().text = broken.front();
    }
  }
}

/// Slots held by, and cells of, the tokens that the last cut saw; what came later is not its doing.
std::pair<std::int64_t, std::int64_t> held_at_cut(const Decision& decision) {
  std::int64_t held = 0;
  std::int64_t cells = 0;
  for (const LayerDecision& layer : decision.layers) {
    const int seen =
        decision.cut_tokens > 0 ? std::min(decision.cut_tokens, layer.tokens) : layer.tokens;
    cells += static_cast<std::int64_t>(layer.kv_heads) * seen;
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      const auto first = layer.fate.begin() + static_cast<std::ptrdiff_t>(layer.cell(kv_head, 0));
      held += std::count_if(first, first + seen, holds_slot);
    }
  }
  return {held, cells};
}

void check_budget(const Decision& decision, const CheckOptions& options, Findings& findings) {
  const auto [held, cells] = held_at_cut(decision);
  if (held == cells && decision.budget_slots > 0 && decision.budget_slots < cells) {
    findings.push_back({"noop", Severity::warning,
                        fmt::format("nothing was removed although the budget is {} of {} slots",
                                    decision.budget_slots, cells),
                        1, -1, -1, -1});
    return;
  }
  const std::int64_t asked = std::min(decision.budget_slots, cells);
  const auto off = static_cast<double>(std::abs(held - asked));
  if (asked > 0 && off > options.budget_tolerance * static_cast<double>(asked)) {
    findings.push_back(
        {"budget", decision.by_method ? Severity::info : Severity::warning,
         fmt::format("holds {} slots where {} were asked ({:+.1f} %){}", held, asked,
                     100.0 * static_cast<double>(held - asked) / static_cast<double>(asked),
                     decision.by_method ? ": the method sets its own size" : ""),
         1, -1, -1, -1});
  }
}

void check_empty(const Decision& decision, const FateTable& fates, Findings& findings) {
  Places places;
  for (std::size_t row = 0; row < decision.layers.size(); ++row) {
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      const FateCounts& counts = fates.at(static_cast<int>(row), kv_head);
      if (counts.total() > 0 && counts.holding() == 0) {
        places.add(decision.layers[row].layer, kv_head);
      }
    }
  }
  if (places.count > 0) {
    report(findings, "empty", Severity::error, places,
           fmt::format("{} KV heads hold no slot, first L{} h{}", places.count, places.layer,
                       places.kv_head));
  }
}

/// Oldest token removed by each event, or -1.
std::vector<int> oldest_removed(const Decision& decision) {
  std::vector<int> oldest(decision.events.size(), -1);
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      for (int token = 0; token < layer.tokens; ++token) {
        const std::uint32_t event = layer.removed_at[layer.cell(kv_head, token)];
        if (event < oldest.size() && (oldest[event] < 0 || token < oldest[event])) {
          oldest[event] = token;
        }
      }
    }
  }
  return oldest;
}

void check_frozen(const Decision& decision, const CheckOptions& options, Findings& findings) {
  if (static_cast<int>(decision.events.size()) < options.frozen_events) {
    return;
  }
  const std::vector<int> oldest = oldest_removed(decision);
  int run = 0;
  Places places;
  for (std::size_t event = 0; event < oldest.size(); ++event) {
    if (decision.events[event].step == 0 || oldest[event] < 0) {
      continue;
    }
    run = oldest[event] >= decision.events[event].tokens_seen - options.frozen_newest ? run + 1 : 0;
    if (run >= options.frozen_events) {
      places.add(-1, -1, oldest[event]);
    }
  }
  if (places.count > 0) {
    report(findings, "frozen", Severity::warning, places,
           fmt::format(
               "{} or more cuts in a row removed only the newest {} tokens: the cache no longer "
               "follows the text",
               options.frozen_events, options.frozen_newest));
  }
}

void check_lost_tokens(const Decision& decision, const TokenTable* tokens,
                       const CheckOptions& options, Findings& findings) {
  const std::vector<int> holding = heads_holding(decision);
  const int heads = static_cast<int>(decision.layers.size()) * decision.kv_heads;
  const int seen = decision.cut_tokens > 0 ? decision.cut_tokens : decision.tokens;
  Places sinks;
  Places special;
  for (int token = 0; token < std::min(seen, decision.tokens); ++token) {
    const int lost = heads - holding[static_cast<std::size_t>(token)];
    if (static_cast<double>(lost) <= options.lost_share * static_cast<double>(heads)) {
      continue;
    }
    if (token < 4) {
      sinks.add(-1, -1, token);
    }
    if (tokens != nullptr && token < tokens->size()) {
      const Segment segment = tokens->segment[static_cast<std::size_t>(token)];
      if (segment == Segment::chat_template || segment == Segment::question) {
        special.add(-1, -1, token);
      }
    }
  }
  if (sinks.count > 0) {
    report(findings, "sink", Severity::warning, sinks,
           fmt::format(
               "{} of the first 4 tokens are gone in more than {:.0f} % of the KV heads, first "
               "token {}",
               sinks.count, 100 * options.lost_share, sinks.token));
  }
  if (special.count > 0) {
    report(findings, "special", Severity::warning, special,
           fmt::format(
               "{} template or question tokens are gone in more than {:.0f} % of the KV heads, "
               "first token {}",
               special.count, 100 * options.lost_share, special.token));
  }
}

void check_scores(const Decision& decision, const CheckOptions& options, Findings& findings) {
  Places constant;
  Places ties;
  for (const LayerDecision& layer : decision.layers) {
    if (layer.scores.empty()) {
      continue;
    }
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      float low = std::numeric_limits<float>::infinity();
      float high = -low;
      int decided = 0;
      int near_cut = 0;
      const float cut = layer.cut.empty() ? std::numeric_limits<float>::quiet_NaN()
                                          : layer.cut[static_cast<std::size_t>(kv_head)].last_kept;
      for (int token = 0; token < layer.tokens; ++token) {
        const float score = layer.scores[layer.cell(kv_head, token)];
        if (!std::isfinite(score)) {
          continue;
        }
        ++decided;
        low = std::min(low, score);
        high = std::max(high, score);
        near_cut += std::abs(score - cut) <= options.tie_width * std::abs(cut);
      }
      if (decided > 1 && low == high) {
        constant.add(layer.layer, kv_head);
      } else if (decided > 1 && near_cut > 1 &&
                 static_cast<double>(near_cut) > options.tie_share * decided) {
        ties.add(layer.layer, kv_head);
      }
    }
  }
  if (constant.count > 0) {
    report(findings, "constant", Severity::warning, constant,
           fmt::format("all scores are equal in {} KV heads, first L{} h{}", constant.count,
                       constant.layer, constant.kv_head));
  }
  if (ties.count > 0) {
    report(findings, "ties", Severity::warning, ties,
           fmt::format(
               "in {} KV heads more than {:.0f} % of the tokens tie with the cut, first L{} h{}: "
               "tie order chose between them",
               ties.count, 100 * options.tie_share, ties.layer, ties.kv_head));
  }
}

void check_mass(const Decision& decision, Findings& findings) {
  Places places;
  for (const LayerDecision& layer : decision.layers) {
    if (layer.edges.empty()) {
      continue;
    }
    // What a merged token hands over must add up to the one token it is.
    std::vector<double> given(layer.fate.size(), 0.0);
    for (const MergeEdge& edge : layer.edges) {
      if (edge.source != edge.target) {
        given[layer.cell(edge.kv_head, edge.source)] += static_cast<double>(edge.count);
      }
    }
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      for (int token = 0; token < layer.tokens; ++token) {
        const std::size_t cell = layer.cell(kv_head, token);
        if (layer.fate[cell] == Fate::merged && given[cell] < 1.0 - 1e-3) {
          places.add(layer.layer, kv_head, token);
        }
      }
    }
  }
  if (places.count > 0) {
    report(findings, "mass", Severity::warning, places,
           fmt::format("{} merged tokens hand over a multiplicity below 1, first L{} h{} token {}",
                       places.count, places.layer, places.kv_head, places.token));
  }
}

void check_drops(const FateTable& fates, const CheckOptions& options, Findings& findings) {
  const double share = fates.total.dropped_share();
  if (fates.total.dropped > 0 && share > options.dropped_share) {
    findings.push_back(
        {"drops", Severity::warning,
         fmt::format("{} tokens ({:.1f} % of the removals) were dropped by a merge that "
                     "folded them into nothing",
                     fates.total.dropped, 100 * share),
         fates.total.dropped, -1, -1, -1});
  }
}

void check_identical(const Decision& decision, const FateTable& fates, Findings& findings) {
  if (fates.total.removed() == 0 || fates.head.size() < 2) {
    return;
  }
  const LayerDecision& first = decision.layers.front();
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      for (int token = 0; token < layer.tokens; ++token) {
        if (holds_slot(layer.fate[layer.cell(kv_head, token)]) !=
            holds_slot(first.fate[first.cell(0, token)])) {
          return;
        }
      }
    }
  }
  findings.push_back({"identical", Severity::info,
                      "every KV head of every layer keeps the same tokens: positions decided, not "
                      "content",
                      static_cast<std::int64_t>(fates.head.size()), -1, -1, -1});
}

void check_outliers(const Decision& decision, const CheckOptions& options, Findings& findings) {
  const auto heads = static_cast<std::size_t>(decision.query_heads);
  const std::vector<float>& error = decision.metrics.output_error;
  if (heads == 0 || error.size() != heads * decision.layers.size()) {
    return;
  }
  Places places;
  int query_head = -1;
  for (std::size_t row = 0; row < decision.layers.size(); ++row) {
    const auto begin = error.begin() + static_cast<std::ptrdiff_t>(row * heads);
    std::vector<float> sorted(begin, begin + static_cast<std::ptrdiff_t>(heads));
    std::sort(sorted.begin(), sorted.end());
    const double median = static_cast<double>(sorted[(heads - 1) / 2]);
    for (std::size_t head = 0; head < heads; ++head) {
      const auto value = static_cast<double>(error[row * heads + head]);
      if (median > 0 && value > options.outlier_factor * median) {
        if (places.count == 0) {
          query_head = static_cast<int>(head);
        }
        places.add(decision.layers[row].layer,
                   static_cast<int>(head) * decision.kv_heads / decision.query_heads);
      }
    }
  }
  if (places.count > 0) {
    report(findings, "outlier", Severity::warning, places,
           fmt::format(
               "output error of {} query heads exceeds {:.0f} times their layer's median, first "
               "L{} query head {}",
               places.count, options.outlier_factor, places.layer, query_head));
  }
}

}  // namespace

const char* severity_name(Severity severity) {
  switch (severity) {
    case Severity::info:
      return "info";
    case Severity::warning:
      return "warning";
    case Severity::error:
      return "error";
  }
  return "unknown";
}

std::vector<Finding> check_decision(const Decision& decision, const TokenTable* tokens,
                                    const CheckOptions& options) {
  Findings findings;
  check_rules(decision, findings);
  if (!readable(decision)) {
    return findings;
  }
  const FateTable fates = count_fates(decision);
  check_budget(decision, options, findings);
  check_empty(decision, fates, findings);
  check_frozen(decision, options, findings);
  check_lost_tokens(decision, tokens, options, findings);
  check_scores(decision, options, findings);
  check_mass(decision, findings);
  check_drops(fates, options, findings);
  check_identical(decision, fates, findings);
  check_outliers(decision, options, findings);
  return findings;
}

}  // namespace kvscope
