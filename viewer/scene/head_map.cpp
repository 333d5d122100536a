#include "kvscope/scene/head_map.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvscope {
namespace {

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

std::vector<double> held_slots(const SceneDecision& entry) {
  std::vector<double> held;
  for (const LayerDecision& layer : entry.decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      held.push_back(layer.kept(kv_head));
    }
  }
  return held;
}

void find_range(HeadMap& map) {
  map.least = std::numeric_limits<double>::infinity();
  map.most = -map.least;
  for (const double value : map.values) {
    if (std::isfinite(value)) {
      map.least = std::min(map.least, value);
      map.most = std::max(map.most, value);
    }
  }
}

}  // namespace

HeadMap head_map(const Scene& scene, const State& state) {
  HeadMap map;
  map.layers = scene.layers();
  map.kv_heads = scene.kv_heads();
  if (scene.decisions.empty()) {
    map.missing = "no decision is open";
    return map;
  }
  const SceneDecision& a = scene.decisions[static_cast<std::size_t>(state.a)];
  const DecisionMetrics& metrics = a.decision.metrics;
  if (state.head_value == "kept") {
    map.title = "slots held";
    map.values = held_slots(a);
  } else if (state.head_value == "jaccard") {
    const SceneDecision& b = scene.decisions[static_cast<std::size_t>(state.b)];
    map.title = "agreement of A and B (Jaccard)";
    const Agreement compared = agreement(a.decision, b.decision);
    for (const SetOverlap& head : compared.head) {
      map.values.push_back(head.jaccard());
    }
  } else if (metrics.empty()) {
    map.missing = "the decision holds no metrics: decide with --metrics on a qkv capture";
    return map;
  } else {
    const bool error = state.head_value == "error";
    map.title = error ? "output error (relative L2)" : "retained attention";
    map.cost = error;
    map.values = group_means(error ? metrics.output_error : metrics.retained_mass, map.layers,
                             a.decision.query_heads, map.kv_heads);
  }
  find_range(map);
  return map;
}

}  // namespace kvscope
