#include "mergers/nearest.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <tuple>

#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Evicted tokens handled at once: bounds the similarity matrix.
constexpr std::int64_t block = 256;

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
  const std::int64_t lost = lost_units.size(0);
  result.similarity.resize(static_cast<std::size_t>(lost));
  result.target.resize(static_cast<std::size_t>(lost));
  const auto find = [&](std::int64_t first, std::int64_t count) {
    const at::Tensor cosine =
        lost_units.narrow(0, first, count).matmul(kept_units).cpu().contiguous();
    const float* row = cosine.const_data_ptr<float>();
    for (std::int64_t at = first; at < first + count; ++at, row += columns) {
      const float* best = std::max_element(row, row + columns);
      result.similarity[static_cast<std::size_t>(at)] = *best;
      result.target[static_cast<std::size_t>(at)] = kept[static_cast<std::size_t>(best - row)];
    }
  };
  const std::int64_t blocks = (lost + block - 1) / block;
  const auto find_blocks = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < std::min(end, blocks); ++at) {
      find(at * block, std::min(block, lost - at * block));
    }
  };
  if (lost_units.is_cpu()) {
    // Every product is one thread's: some libraries round otherwise when several share one, which
    // they do outside of parallel regions; a region is at least two tasks.
    at::parallel_for(0, std::max<std::int64_t>(2, blocks), 1, find_blocks);
  } else {
    find_blocks(0, blocks);
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
