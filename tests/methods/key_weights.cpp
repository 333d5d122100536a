#include "key_weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

namespace kvscope::test {
namespace {

/// Calls `body(layer decision, edge of the target itself, edge of the token that joined it)`.
template <typename Body>
void for_merges(const Decision& decision, int event, const Body& body) {
  for (const LayerDecision& layer : decision.layers) {
    for (std::size_t i = 0; i + 1 < layer.edges.size(); ++i) {
      const MergeEdge& own = layer.edges[i];
      if (own.event == event && own.source == own.target) {
        body(layer, own, layer.edges[i + 1]);
      }
    }
  }
}

std::int64_t slot_of(const RecordedProbe& probe, int layer, int token) {
  const std::vector<int>& tokens = probe.cache[static_cast<std::size_t>(layer)].tokens;
  const auto found = std::find(tokens.begin(), tokens.end(), token);
  const auto cached = static_cast<std::int64_t>(tokens.size());
  return found != tokens.end() ? found - tokens.begin() : cached + token - probe.first;
}

/// AsymKV's weight of the first key: squared gradients, averaged over channels.
double squared_share(const ProbedLayer& layer, int kv_head, std::int64_t a, std::int64_t b) {
  const at::Tensor one = layer.key_gradient[kv_head][a].square();
  const at::Tensor two = layer.key_gradient[kv_head][b].square();
  return (one / (one + two + 1e-21)).mean().item<double>();
}

/// The oracle's: g11 + g12 over g11 + 2 g12 + g22, means over queries and the group's heads.
double curvature_share(const ProbedLayer& layer, const at::Tensor& counts, int kv_head,
                       std::int64_t a, std::int64_t b) {
  const std::int64_t group = layer.attention.size(0) / layer.values.size(0);
  const auto part = [&](const at::Tensor& tensor) {
    return tensor.narrow(0, kv_head * group, group);
  };
  const at::Tensor p = part(layer.attention);
  const at::Tensor o = part(layer.output);
  const at::Tensor e = part(layer.output_gradient);
  const auto along = [&](std::int64_t slot) {  // E . (v - o)
    return (e * (layer.values[kv_head][slot] / counts[slot] - o)).sum(-1);
  };
  const at::Tensor p1 = p.select(2, a);
  const at::Tensor p2 = p.select(2, b);
  const auto g11 = (p1 * (1 - 2 * p1) * along(a)).mean().item<double>();
  const auto g22 = (p2 * (1 - 2 * p2) * along(b)).mean().item<double>();
  const auto g12 = -(p1 * p2 * (along(a) + along(b))).mean().item<double>();
  return (g11 + g12) / (g11 + 2 * g12 + g22);
}

}  // namespace

Deviation from_recorded(const Float64Model& model, const RecordedProbe& probe, bool oracle,
                        const Decision& decision, int event) {
  const std::vector<ProbedLayer> layers = model.probe(probe.cache, probe.ids);
  Deviation deviation;
  for_merges(decision, event,
             [&](const LayerDecision& layer, const MergeEdge& own, const MergeEdge& other) {
               const auto index = static_cast<std::size_t>(layer.layer);
               const std::int64_t a = slot_of(probe, layer.layer, own.target);
               const std::int64_t b = slot_of(probe, layer.layer, other.source);
               const at::Tensor counts =
                   at::cat({probe.cache[index].counts,
                            at::ones({static_cast<std::int64_t>(probe.ids.size())}, at::kDouble)});
               deviation.add(static_cast<double>(own.key_weight),
                             oracle ? curvature_share(layers[index], counts, own.kv_head, a, b)
                                    : squared_share(layers[index], own.kv_head, a, b));
             });
  return deviation;
}

Deviation from_golden(const nlohmann::json& expected, const Decision& decision, int event) {
  Deviation deviation;
  for_merges(decision, event,
             [&](const LayerDecision& layer, const MergeEdge& own, const MergeEdge& other) {
               const nlohmann::json& merges =
                   expected["events"][static_cast<std::size_t>(event)]
                           [static_cast<std::size_t>(layer.layer)]["merges"];
               for (const nlohmann::json& merge : merges) {
                 if (merge[0] == own.target && merge[1] == other.source) {
                   if (merge.size() > 2) {
                     deviation.add(static_cast<double>(own.key_weight),
                                   merge[2][static_cast<std::size_t>(own.kv_head)].get<double>());
                   }
                   return;
                 }
               }
               ++deviation.other_pairs;
             });
  return deviation;
}

}  // namespace kvscope::test
