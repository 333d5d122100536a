#include "kvscope/scene/histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kvscope/scene/token_strip.h"

namespace kvscope {
namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
constexpr double decades_for_log = 2;
constexpr double tie_width = 1e-6;

struct Head {
  const LayerDecision* layer = nullptr;
  int kv_head = 0;
  std::span<const float> scores;

  double score(int token) const {
    return static_cast<double>(scores[static_cast<std::size_t>(token)]);
  }
  bool held(int token) const { return layer->removed_at[layer->cell(kv_head, token)] == alive; }
};

/// The head the state points at; without scores `scores` is empty.
Head selected_head(const Scene& scene, const State& state) {
  Head head;
  const std::vector<int> heads = selected_heads(scene, state);
  if (scene.decisions.empty() || heads.empty()) {
    return head;
  }
  head.layer = &scene.decisions[static_cast<std::size_t>(state.a)]
                    .decision.layers[static_cast<std::size_t>(state.layer)];
  head.kv_head = heads.front();
  if (!head.layer->scores.empty()) {
    head.scores = std::span(head.layer->scores)
                      .subspan(head.layer->cell(head.kv_head, 0),
                               static_cast<std::size_t>(head.layer->tokens));
  }
  return head;
}

struct Range {
  double least = std::numeric_limits<double>::infinity();
  double most = -std::numeric_limits<double>::infinity();
};

Range finite_range(std::span<const float> scores) {
  Range range;
  for (const float score : scores) {
    if (std::isfinite(score)) {
      range.least = std::min(range.least, static_cast<double>(score));
      range.most = std::max(range.most, static_cast<double>(score));
    }
  }
  return range;
}

void count_ties(const Head& head, ScoreHistogram& histogram) {
  if (!std::isfinite(histogram.last_kept)) {
    return;
  }
  const double width = tie_width * std::max(std::abs(histogram.last_kept), 1e-30);
  for (int token = 0; token < head.layer->tokens; ++token) {
    histogram.ties += std::abs(head.score(token) - histogram.last_kept) <= width ? 1 : 0;
  }
}

}  // namespace

ScoreHistogram score_histogram(const Scene& scene, const State& state, int bins) {
  ScoreHistogram histogram;
  const Head head = selected_head(scene, state);
  const Range range = finite_range(head.scores);
  if (head.scores.empty() || range.most < range.least) {
    histogram.missing = head.layer == nullptr ? "no decision is open"
                                              : "no score is stored: decide with --scores, or the "
                                                "method keeps by rule alone";
    return histogram;
  }
  histogram.logarithmic = range.least > 0 && std::log10(range.most / range.least) > decades_for_log;
  const auto scaled = [&](double value) {
    return histogram.logarithmic ? (value > 0 ? std::log10(value) : nan_value) : value;
  };
  histogram.first = scaled(range.least);
  histogram.width = (scaled(range.most) - histogram.first) / bins;
  histogram.width = histogram.width > 0 ? histogram.width : 1;
  histogram.kept.assign(static_cast<std::size_t>(bins), 0);
  histogram.lost.assign(static_cast<std::size_t>(bins), 0);
  for (int token = 0; token < head.layer->tokens; ++token) {
    const double score = head.score(token);
    if (!std::isfinite(score)) {
      ++histogram.by_rule;
      continue;
    }
    const int bin = std::clamp(
        static_cast<int>((scaled(score) - histogram.first) / histogram.width), 0, bins - 1);
    (head.held(token) ? histogram.kept : histogram.lost)[static_cast<std::size_t>(bin)] += 1;
  }
  const Cut& cut = head.layer->cut[static_cast<std::size_t>(head.kv_head)];
  histogram.last_kept = static_cast<double>(cut.last_kept);
  histogram.first_lost = static_cast<double>(cut.first_lost);
  histogram.cut = std::isfinite(histogram.last_kept) ? scaled(histogram.last_kept) : nan_value;
  histogram.token = state.token < head.layer->tokens && std::isfinite(head.score(state.token))
                        ? scaled(head.score(state.token))
                        : nan_value;
  count_ties(head, histogram);
  return histogram;
}

BudgetChange budget_change(const Scene& scene, const State& state, int slots) {
  BudgetChange change;
  const Head head = selected_head(scene, state);
  if (head.scores.empty()) {
    return change;
  }
  change.known = true;
  std::vector<int> order;
  int by_rule = 0;
  for (int token = 0; token < head.layer->tokens; ++token) {
    if (std::isfinite(head.score(token))) {
      order.push_back(token);
    } else {
      by_rule += head.held(token) ? 1 : 0;
    }
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return head.score(a) > head.score(b); });
  const int kept = std::clamp(slots - by_rule, 0, static_cast<int>(order.size()));
  for (int rank = 0; rank < static_cast<int>(order.size()); ++rank) {
    const int token = order[static_cast<std::size_t>(rank)];
    const bool then = rank < kept;
    change.joining += then && !head.held(token) ? 1 : 0;
    change.leaving += !then && head.held(token) ? 1 : 0;
    if (token == state.token) {
      change.token_kept = then;
      change.slots_for_token = by_rule + rank + 1;
    }
    change.cut = then ? head.score(token) : change.cut;
  }
  if (change.slots_for_token == 0 && state.token < head.layer->tokens) {
    change.token_kept = head.held(state.token);
  }
  return change;
}

}  // namespace kvscope
