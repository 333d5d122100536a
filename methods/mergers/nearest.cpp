#include "mergers/nearest.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <tuple>

#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Evicted tokens handled at once: bounds the similarity matrix.
constexpr std::int64_t block = 1024;

at::Tensor index_tensor(const std::vector<int>& tokens, const at::Tensor& like) {
  return at::tensor(tokens, at::kInt).to(at::kLong).to(like.device());
}

}  // namespace

void check_finite(const LayerEvidence& evidence) {
  const int tokens = live_slots(evidence);
  check_finite(rows(evidence.keys(Frame::post_rope), tokens), "key", evidence.moment().layer);
  check_finite(rows(evidence.values(), tokens), "value", evidence.moment().layer);
}

NearestKept nearest_kept(const LayerEvidence& evidence, const LayerDecision& decision,
                         int kv_head) {
  NearestKept result;
  std::vector<int> kept;
  for (int token = 0; token < decision.tokens; ++token) {
    const Fate fate = decision.fate[decision.cell(kv_head, token)];
    if (fate == Fate::kept) {
      kept.push_back(token);
    } else if (fate == Fate::evicted) {
      result.lost.push_back(token);
    }
  }
  if (kept.empty() || result.lost.empty()) {
    result.lost.clear();
    return result;
  }
  const at::Tensor keys = evidence.keys(Frame::post_rope).select(0, kv_head);
  const at::Tensor unit = keys / keys.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-6);
  const at::Tensor kept_units =
      unit.index_select(0, index_tensor(kept, keys)).transpose(0, 1).contiguous();
  const at::Tensor lost_units = unit.index_select(0, index_tensor(result.lost, keys));
  const std::int64_t columns = kept_units.size(1);
  for (std::int64_t first = 0; first < lost_units.size(0); first += block) {
    const std::int64_t count = std::min(block, lost_units.size(0) - first);
    const at::Tensor cosine =
        lost_units.narrow(0, first, count).matmul(kept_units).cpu().contiguous();
    const float* row = cosine.data_ptr<float>();
    for (std::int64_t lost = 0; lost < count; ++lost, row += columns) {
      const float* best = std::max_element(row, row + columns);
      result.similarity.push_back(*best);
      result.target.push_back(kept[static_cast<std::size_t>(best - row)]);
    }
  }
  return result;
}

void fold(LayerDecision& decision, int kv_head, int source, int target, float key_weight,
          float value_weight, float count) {
  const std::size_t cell = decision.cell(kv_head, source);
  decision.fate[cell] = Fate::merged;
  decision.edges.push_back({kv_head, source, target, 0, key_weight, value_weight, count, -1});
}

void decline(LayerDecision& decision, int kv_head, int source) {
  decision.reason[decision.cell(kv_head, source)] = Reason::merger_declined;
}

void sort_edges(LayerDecision& decision) {
  const auto order = [](const MergeEdge& edge) {
    return std::tuple(edge.event, edge.kv_head, edge.target, edge.source);
  };
  std::sort(decision.edges.begin(), decision.edges.end(),
            [&](const MergeEdge& a, const MergeEdge& b) { return order(a) < order(b); });
}

}  // namespace kvscope::detail
