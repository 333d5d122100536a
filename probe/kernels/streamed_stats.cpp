#include "streamed_stats.h"

#include <algorithm>
#include <limits>

namespace kvscope::detail {
namespace {

StreamedWeights& weights_of_thread() {
  thread_local StreamedWeights weights;
  return weights;
}

}  // namespace

StreamedStats::StreamedStats(const ForwardInputs& in, const AttentionWanted& wanted,
                             const ColumnTargets& targets, AttentionStats& stats)
    : in_(in), wanted_(wanted), targets_(targets), kept_(weights_of_thread()) {
  if (wanted.last_top <= 0) {
    return;
  }
  const auto cells = static_cast<std::size_t>(in.query_heads * wanted.last_top);
  top_ = std::make_shared<TopProbabilities>();
  top_->key.assign(cells, -1);
  top_->probability.assign(cells, std::numeric_limits<float>::quiet_NaN());
  top_->sink_mass.resize(static_cast<std::size_t>(in.query_heads));
  stats.top = top_;
}

StreamedStats::~StreamedStats() {
  constexpr std::size_t most = std::size_t{16} << 20;
  if (kept_.weights.size() * sizeof(float) > most) {
    kept_ = {};
  }
}

StreamedWatch StreamedStats::watch(float* entropy) {
  StreamedWatch watch;
  watch.entropy = entropy;
  if (!targets_.any() && wanted_.last_top <= 0) {
    return watch;
  }
  watch.kept = &kept_;
  watch.maxima = wanted_.last_top > 0;
  watch.joined = [this](std::int64_t head) {
    for (int segment = 0; segment < targets_.segments(); ++segment) {
      if (targets_.counts(segment)) {
        add_segment(segment, head);
      }
    }
    if (wanted_.last_top > 0) {
      add_top(head);
    }
  };
  return watch;
}

StreamedStats::SeenKeys StreamedStats::seen_by(std::int64_t row, std::int64_t head) const {
  const VisibleKeys& visible = in_.visible[static_cast<std::size_t>(head / in_.group)];
  const auto index = static_cast<std::size_t>(row);
  return {visible.first[index], visible.end[index]};
}

StreamedStats::Part StreamedStats::part_of(std::int64_t row, std::int64_t head, std::int64_t part,
                                           SeenKeys seen) const {
  const std::int64_t task = (row * in_.kv_heads + head / in_.group) * kept_.parts + part;
  const std::int64_t cell = (row * in_.query_heads + head) * kept_.parts + part;
  const std::int64_t block = task * in_.group + head % in_.group;
  return {kept_.weights.data() + block * tile::row_keys,
          wanted_.last_top > 0 ? kept_.maxima.data() + block * tile::row_maxima : nullptr,
          std::max<std::int64_t>(seen.first, part * tile::row_keys),
          std::min<std::int64_t>(seen.end, (part + 1) * tile::row_keys),
          kept_.factors[static_cast<std::size_t>(cell)]};
}

template <typename Work>
void StreamedStats::for_parts(std::int64_t row, std::int64_t head, SeenKeys seen,
                              const Work& work) const {
  for (std::int64_t part = seen.first / tile::row_keys; part * tile::row_keys < seen.end; ++part) {
    work(part_of(row, head, part, seen));
  }
}

/// Of the keys that the row sees, from the first on.
void StreamedStats::probabilities(std::int64_t row, std::int64_t head, SeenKeys seen,
                                  float* p) const {
  for_parts(row, head, seen, [&p](const Part& of) {
    for (std::int64_t key = of.first; key < of.end; ++key) {
      *p++ = of.weights[key - of.first] * of.factor;
    }
  });
}

/// Columns, a row at a time; a plane of one row's sums is written where it lies.
void StreamedStats::add_segment(int segment, std::int64_t head) const {
  const auto index = static_cast<std::size_t>(segment);
  if (float* only = targets_.only_row(segment, head); only != nullptr) {
    const int row = targets_.bounds()[index];
    const SeenKeys seen = seen_by(row, head);
    probabilities(row, head, seen, only + seen.first);
    return;
  }
  std::vector<float> p(static_cast<std::size_t>(in_.tokens));
  std::vector<float> squares(targets_.wants_squares(segment) ? p.size() : 0);
  for (int row = targets_.bounds()[index]; row < targets_.bounds()[index + 1]; ++row) {
    const SeenKeys seen = seen_by(row, head);
    probabilities(row, head, seen, p.data());
    for (std::size_t key = 0; key < squares.size(); ++key) {
      squares[key] = p[key] * p[key];
    }
    targets_.add(segment, head, seen.first, seen.end - seen.first, p.data(), squares.data(),
                 p.data());
  }
}

/// Of the last row.
void StreamedStats::add_top(std::int64_t head) const {
  auto key = top_->key.begin() + head * wanted_.last_top;
  auto probability = top_->probability.begin() + head * wanted_.last_top;
  for (const RankedValue& one : top_of_row(head)) {
    *key++ = one.index;
    *probability++ = one.value;
  }
  top_->sink_mass[static_cast<std::size_t>(head)] = sinks_of_row(head);
}

std::vector<RankedValue> StreamedStats::top_of_row(std::int64_t head) const {
  const std::int64_t row = in_.rows - 1;
  const SeenKeys seen = seen_by(row, head);
  std::vector<ScaledValues> pieces;
  pieces.reserve(static_cast<std::size_t>(kept_.parts));
  for_parts(row, head, seen, [&pieces](const Part& of) {
    pieces.push_back(
        {of.weights, of.end - of.first, static_cast<std::int32_t>(of.first), of.factor, of.maxima});
  });
  std::vector<RankedValue> best = largest(pieces, wanted_.last_top);
  if (std::ssize(best) < std::min<std::int64_t>(wanted_.last_top, in_.tokens) || best.empty() ||
      best.back().value <= 0) {  // keys that are not seen have their place among the zeros
    std::vector<float> p(static_cast<std::size_t>(in_.tokens), 0.0f);
    probabilities(row, head, seen, p.data() + seen.first);
    const ScaledValues whole{p.data(), in_.tokens, 0, 1, nullptr};
    best = largest({&whole, 1}, wanted_.last_top);
  }
  return best;
}

float StreamedStats::sinks_of_row(std::int64_t head) const {
  const std::int64_t row = in_.rows - 1;
  SeenKeys seen = seen_by(row, head);
  seen.end = std::min(seen.end, wanted_.last_sinks);
  double mass = 0;
  for_parts(row, head, seen, [&mass](const Part& of) {
    for (std::int64_t key = of.first; key < of.end; ++key) {
      mass += static_cast<double>(of.weights[key - of.first] * of.factor);
    }
  });
  return static_cast<float>(mass);
}

}  // namespace kvscope::detail
