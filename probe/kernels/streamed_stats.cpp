#include "streamed_stats.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "kvscope/kernels/largest.h"
#include "packed_keys.h"

namespace kvscope::detail {
namespace {

/// Weights of the keys [first, end) of one part that a streamed row sees.
struct StreamedPart {
  const float* weights = nullptr;
  const float* maxima = nullptr;  ///< of blocks of them, or null
  std::int64_t first = 0;
  std::int64_t end = 0;
  float factor = 0;
};

StreamedPart streamed_part(const ForwardInputs& in, const StreamedWeights& kept, std::int64_t row,
                           std::int64_t head, std::int64_t part, int first, int end) {
  const std::int64_t task = (row * in.kv_heads + head / in.group) * kept.parts + part;
  const std::int64_t cell = (row * in.query_heads + head) * kept.parts + part;
  const std::int64_t first_weight = (task * in.group + head % in.group) * tile::row_keys;
  return {kept.weights.data() + first_weight,
          !kept.has_maxima ? nullptr : kept.maxima.data() + first_weight / tile::block_keys,
          std::max<std::int64_t>(first, part * tile::row_keys),
          std::min<std::int64_t>(end, (part + 1) * tile::row_keys),
          kept.factors[static_cast<std::size_t>(cell)]};
}

/// Probabilities of the keys that one streamed row sees.
void streamed_row(const ForwardInputs& in, const StreamedWeights& kept, std::int64_t row,
                  std::int64_t head, int first, int end, float* p) {
  for (std::int64_t part = first / tile::row_keys; part * tile::row_keys < end; ++part) {
    const StreamedPart of = streamed_part(in, kept, row, head, part, first, end);
    for (std::int64_t key = of.first; key < of.end; ++key) {
      *p++ = of.weights[key - of.first] * of.factor;
    }
  }
}

/// All probabilities of a streamed row: [tokens], 0 where it does not see a key.
std::vector<float> whole_row(const ForwardInputs& in, const StreamedWeights& kept, std::int64_t row,
                             std::int64_t head, int first, int end) {
  std::vector<float> p(static_cast<std::size_t>(in.tokens), 0.0f);
  streamed_row(in, kept, row, head, first, end, p.data() + first);
  return p;
}

/// The largest probabilities of the last row, from its weights as they lie.
std::vector<RankedValue> top_of_row(const ForwardInputs& in, const StreamedWeights& kept,
                                    std::int64_t head, int count, float& hint) {
  const std::int64_t row = in.rows - 1;
  const VisibleKeys& visible = in.visible[static_cast<std::size_t>(head / in.group)];
  const int first = visible.first[static_cast<std::size_t>(row)];
  const int end = visible.end[static_cast<std::size_t>(row)];
  static_assert(tile::block_keys == ScaledValues::block);
  std::vector<ScaledValues> pieces;
  pieces.reserve(static_cast<std::size_t>(kept.parts));
  for (std::int64_t part = first / tile::row_keys; part * tile::row_keys < end; ++part) {
    const StreamedPart of = streamed_part(in, kept, row, head, part, first, end);
    pieces.push_back(
        {of.weights, of.end - of.first, static_cast<std::int32_t>(of.first), of.factor, of.maxima});
  }
  std::vector<RankedValue> top = largest(pieces, count, hint);
  if (std::ssize(top) < std::min<std::int64_t>(count, in.tokens) || top.empty() ||
      top.back().value <= 0) {  // keys that are not seen have their place among the zeros
    const std::vector<float> p = whole_row(in, kept, row, head, first, end);
    const ScaledValues all{p.data(), in.tokens, 0, 1};
    top = largest({&all, 1}, count, hint);
  }
  return top;
}

float sinks_of_row(const ForwardInputs& in, const StreamedWeights& kept, std::int64_t head,
                   int sinks) {
  const std::int64_t row = in.rows - 1;
  const VisibleKeys& visible = in.visible[static_cast<std::size_t>(head / in.group)];
  const int first = visible.first[static_cast<std::size_t>(row)];
  const int end = std::min(sinks, visible.end[static_cast<std::size_t>(row)]);
  std::vector<float> p(static_cast<std::size_t>(std::max(0, end - first)));
  streamed_row(in, kept, row, head, first, end, p.data());
  return static_cast<float>(std::accumulate(p.begin(), p.end(), 0.0));
}

/// Starting the other threads costs as much as some ten thousand products.
template <typename Work>
void for_heads(const ForwardInputs& in, const Work& work) {
  if (in.query_heads * in.tokens >= 65536) {
    run_tasks(in.query_heads, work);
    return;
  }
  for (std::int64_t head = 0; head < in.query_heads; ++head) {
    work(head);
  }
}

}  // namespace

void add_streamed(const ForwardInputs& in, const StreamedWeights& kept,
                  const ColumnTargets& targets, int segment) {
  const auto index = static_cast<std::size_t>(segment);
  const auto add_head = [&](std::int64_t head) {
    if (float* only = targets.only_row(segment, head); only != nullptr) {
      const VisibleKeys& visible = in.visible[static_cast<std::size_t>(head / in.group)];
      const int row = targets.bounds()[index];
      const int first = visible.first[static_cast<std::size_t>(row)];
      streamed_row(in, kept, row, head, first, visible.end[static_cast<std::size_t>(row)],
                   only + first);
      return;
    }
    std::vector<float> p(static_cast<std::size_t>(in.tokens));
    std::vector<float> squares(targets.wants_squares(segment) ? p.size() : 0);
    for (int row = targets.bounds()[index]; row < targets.bounds()[index + 1]; ++row) {
      const VisibleKeys& visible = in.visible[static_cast<std::size_t>(head / in.group)];
      const int first = visible.first[static_cast<std::size_t>(row)];
      const int end = visible.end[static_cast<std::size_t>(row)];
      streamed_row(in, kept, row, head, first, end, p.data());
      for (std::size_t key = 0; key < squares.size(); ++key) {
        squares[key] = p[key] * p[key];
      }
      targets.add(segment, head, first, end - first, p.data(), squares.data(), p.data());
    }
  };
  for_heads(in, add_head);
}

void add_top(const ForwardInputs& in, const StreamedWeights& kept, const AttentionWanted& wanted,
             AttentionStats& stats) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const std::int64_t count = wanted.last_top;
  TopProbabilities& top = stats.top;
  top.key.assign(static_cast<std::size_t>(in.query_heads * count), -1);
  top.probability.assign(static_cast<std::size_t>(in.query_heads * count), nan);
  top.sink_mass.resize(static_cast<std::size_t>(in.query_heads));
  at::Tensor hints =
      wanted.top_hint.defined() ? wanted.top_hint : at::full({in.query_heads}, nan, at::kFloat);
  auto* hint = hints.mutable_data_ptr<float>();
  for_heads(in, [&](std::int64_t head) {
    std::int32_t* keys = top.key.data() + head * count;
    float* probabilities = top.probability.data() + head * count;
    for (const RankedValue& one : top_of_row(in, kept, head, wanted.last_top, hint[head])) {
      *keys++ = one.index;
      *probabilities++ = one.value;
    }
    top.sink_mass[static_cast<std::size_t>(head)] = sinks_of_row(in, kept, head, wanted.last_sinks);
  });
}

}  // namespace kvscope::detail
