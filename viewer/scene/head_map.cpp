#include "kvscope/scene/head_map.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kvscope/scene/moment.h"

namespace kvscope {
namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
constexpr int most_ranked = 4096;

/// [layers, query_heads] to [layers, kv_heads]: mean of each group.
std::vector<double> group_means(const std::vector<float>& values, int layers, int query_heads,
                                int kv_heads) {
  std::vector<double> means;
  const int group = query_heads / kv_heads;
  for (int row = 0; row < layers; ++row) {
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      double sum = 0;
      for (int member = 0; member < group; ++member) {
        sum += static_cast<double>(
            values[static_cast<std::size_t>(row * query_heads + kv_head * group + member)]);
      }
      means.push_back(sum / group);
    }
  }
  return means;
}

/// Cells with one of `letters` at the state's moment: [layers, kv_heads].
std::vector<double> count_letters(const SceneDecision& entry, const State& state,
                                  std::string_view wanted) {
  std::vector<double> counts;
  for (std::size_t row = 0; row < entry.decision.layers.size(); ++row) {
    const LayerDecision& layer = entry.decision.layers[row];
    const std::string letters = letters_at(entry, static_cast<int>(row), state);
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      const auto first = letters.begin() + static_cast<std::ptrdiff_t>(layer.cell(kv_head, 0));
      counts.push_back(
          static_cast<double>(std::count_if(first, first + layer.tokens, [&](char letter) {
            return wanted.find(letter) != std::string_view::npos;
          })));
    }
  }
  return counts;
}

/// Ranks with ties averaged.
std::vector<double> ranks_of(const std::vector<float>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first;
    while (last < order.size() && values[order[last]] == values[order[first]]) {
      ++last;
    }
    for (std::size_t at = first; at < last; ++at) {
      ranks[order[at]] = static_cast<double>(first + last - 1) / 2;
    }
    first = last;
  }
  return ranks;
}

double correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const auto count = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / count;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / count;
  double xy = 0;
  double xx = 0;
  double yy = 0;
  for (std::size_t at = 0; at < x.size(); ++at) {
    xy += (x[at] - mean_x) * (y[at] - mean_y);
    xx += (x[at] - mean_x) * (x[at] - mean_x);
    yy += (y[at] - mean_y) * (y[at] - mean_y);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : nan_value;
}

double rank_correlation(const LayerDecision& a, const LayerDecision& b, int kv_head) {
  std::vector<float> first;
  std::vector<float> second;
  const int tokens = std::min(a.tokens, b.tokens);
  const int stride = std::max(1, tokens / most_ranked);
  for (int token = 0; token < tokens && !a.scores.empty() && !b.scores.empty(); token += stride) {
    const float x = a.scores[a.cell(kv_head, token)];
    const float y = b.scores[b.cell(kv_head, token)];
    if (std::isfinite(x) && std::isfinite(y)) {
      first.push_back(x);
      second.push_back(y);
    }
  }
  return first.size() < 3 ? nan_value : correlation(ranks_of(first), ranks_of(second));
}

void fill_pair(const Scene& scene, const State& state, HeadMap& map) {
  const Decision& a = scene.decisions[static_cast<std::size_t>(state.a)].decision;
  const Decision& b = scene.decisions[static_cast<std::size_t>(state.b)].decision;
  if (state.a == state.b) {
    map.missing = "choose two different decisions as A and B";
  } else if (state.head_value == "rank") {
    for (std::size_t row = 0; row < a.layers.size(); ++row) {
      for (int kv_head = 0; kv_head < map.kv_heads; ++kv_head) {
        map.values.push_back(rank_correlation(a.layers[row], b.layers[row], kv_head));
      }
    }
    if (std::all_of(map.values.begin(), map.values.end(), [](double v) { return std::isnan(v); })) {
      map.missing = "both decisions need stored scores: decide --scores";
    }
  } else if (a.tokens != b.tokens) {
    map.missing = "A and B cover different numbers of tokens";
  } else {
    for (const SetOverlap& head : agreement(a, b).head) {
      map.values.push_back(head.jaccard());
    }
  }
}

void fill_metric(const SceneDecision& entry, const State& state, HeadMap& map) {
  const DecisionMetrics& metrics = entry.decision.metrics;
  const std::vector<float>& plane = state.head_value == "error"  ? metrics.output_error
                                    : state.head_value == "mass" ? metrics.retained_mass
                                                                 : metrics.retained_mass_no_sinks;
  if (plane.empty()) {
    map.missing = "the decision holds no metrics: decide with --metrics on a qkv capture";
    return;
  }
  map.values = group_means(plane, map.layers, entry.decision.query_heads, map.kv_heads);
}

void summarise(HeadMap& map) {
  map.least = std::numeric_limits<double>::infinity();
  map.most = -map.least;
  double finite = 0;
  for (int row = 0; row < map.layers; ++row) {
    double sum = 0;
    int present = 0;
    for (int kv_head = 0; kv_head < map.kv_heads; ++kv_head) {
      const double value = map.at(row, kv_head);
      if (std::isfinite(value)) {
        map.least = std::min(map.least, value);
        map.most = std::max(map.most, value);
        sum += value;
        ++present;
      }
    }
    map.total += sum;
    finite += present;
    map.layer_value.push_back(map.count ? sum : present > 0 ? sum / present : nan_value);
  }
  map.total = map.count ? map.total : finite > 0 ? map.total / finite : nan_value;
}

}  // namespace

const std::vector<HeadValue>& head_values() {
  static const std::vector<HeadValue> list = {
      {"kept", "slots held", false},
      {"share", "slots held / granted to an even split", false},
      {"merged", "tokens merged", true},
      {"dropped", "tokens dropped in merges", true},
      {"error", "output error (relative L2)", true},
      {"mass", "attention retained", false},
      {"mass_no_sinks", "attention retained, sinks left out", false},
      {"jaccard", "agreement of A and B (Jaccard)", false},
      {"rank", "rank correlation of A's and B's scores", false}};
  return list;
}

HeadMap head_map(const Scene& scene, const State& state) {
  HeadMap map;
  map.layers = scene.layers();
  map.kv_heads = scene.kv_heads();
  const auto value =
      std::find_if(head_values().begin(), head_values().end(),
                   [&](const HeadValue& entry) { return state.head_value == entry.id; });
  map.title = value != head_values().end() ? value->title : state.head_value;
  map.cost = value != head_values().end() && value->cost;
  map.count =
      state.head_value == "kept" || state.head_value == "merged" || state.head_value == "dropped";
  if (scene.decisions.empty()) {
    map.missing = "no decision is open";
    return map;
  }
  const SceneDecision& a = scene.decisions[static_cast<std::size_t>(state.a)];
  if (state.head_value == "kept" || state.head_value == "share") {
    map.values = count_letters(a, state, "KPTS");
  } else if (map.count) {
    map.values = count_letters(a, state, state.head_value == "merged" ? "M" : "D");
  } else if (state.head_value == "jaccard" || state.head_value == "rank") {
    fill_pair(scene, state, map);
  } else {
    fill_metric(a, state, map);
  }
  if (state.head_value == "share") {
    const double even = static_cast<double>(a.decision.budget_slots) /
                        std::max<double>(1, static_cast<double>(map.values.size()));
    for (double& cell : map.values) {
      cell = even > 0 ? cell / even : nan_value;
    }
  }
  if (map.missing.empty()) {
    summarise(map);
  }
  return map;
}

}  // namespace kvscope
