#include "cadences/pair_scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

/// exp(i / decay_length) is 512 after 4096 slots.
const double decay_length = 4096.0 / std::log(512.0);

}  // namespace

ChunkView::ChunkView(const LayerEvidence& seen, int past_slots, int sinks, int chunk_index,
                     int chunk_tokens)
    : evidence(seen),
      layer(seen.moment().layer),
      past(past_slots),
      sink(sinks),
      chunk(chunk_index),
      queries(chunk_tokens) {
  const at::Tensor sum = seen.window_sum(chunk_tokens).cpu().contiguous();
  const float* from = sum.const_data_ptr<float>();
  const auto slots = sum.size(1);
  for (int head = 0; head < seen.shape().query_heads; ++head, from += slots) {
    mass.insert(mass.end(), from, from + past);
  }
  KVSCOPE_CHECK(std::all_of(mass.begin(), mass.end(), [](double m) { return std::isfinite(m); }),
                ErrorCode::failed, "attention of the chunk is not a number",
                fmt::format("layer {}, chunk {}", layer, chunk),
                "check the model's weights, or compute in float32");
}

PairScores score_pairs(const ChunkView& view, const PairRanking& ranking) {
  const ModelShape& shape = view.evidence.shape();
  const auto pairs = static_cast<std::size_t>(std::max(view.pairs(), 0));
  PairScores scores{std::vector<double>(pairs), std::vector<double>(pairs),
                    std::vector<double>(pairs), std::vector<double>(pairs)};
  const double share = ranking.group_mean ? 1.0 / shape.group_size() : 1.0;
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const int slot = view.sink + static_cast<int>(pair);
    for (int head = 0; head < shape.query_heads; ++head) {
      scores.mass[pair] += share * (view.mass_of(head, slot) + view.mass_of(head, slot + 1));
    }
    for (int head = 0; head < shape.kv_heads; ++head) {
      scores.count[pair] += view.multiplicity(head, slot) + view.multiplicity(head, slot + 1);
    }
    scores.decay[pair] = std::exp(static_cast<double>(pair + 1) / decay_length);
  }
  if (ranking.count == PairRanking::Count::constant) {
    const double all = std::accumulate(scores.count.begin(), scores.count.end(), 0.0);
    std::fill(scores.count.begin(), scores.count.end(), all);
  }
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    scores.score[pair] = scores.mass[pair] / scores.decay[pair] * scores.count[pair];
  }
  return scores;
}

std::vector<int> cheapest_pairs(const std::vector<double>& score, int count) {
  std::vector<int> pairs(score.size());
  std::iota(pairs.begin(), pairs.end(), 0);
  const auto cut = pairs.begin() + std::min<std::ptrdiff_t>(count, std::ssize(pairs));
  std::partial_sort(pairs.begin(), cut, pairs.end(), [&](int a, int b) {
    const double left = score[static_cast<std::size_t>(a)];
    const double right = score[static_cast<std::size_t>(b)];
    return left != right ? left < right : a < b;
  });
  pairs.erase(cut, pairs.end());
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

std::vector<PairRun> runs_of(std::span<const int> ascending_pairs) {
  std::vector<PairRun> runs;
  for (const int pair : ascending_pairs) {
    if (runs.empty() || runs.back().first + runs.back().pairs != pair) {
      runs.push_back({pair, 0});
    }
    ++runs.back().pairs;
  }
  return runs;
}

}  // namespace kvscope::detail
