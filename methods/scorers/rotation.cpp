#include "scorers/rotation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

/// [positions, bands] each, the attention factor not included.
struct Angles {
  at::Tensor cosine;
  at::Tensor sine;
};

std::int64_t newest_position(const LayerEvidence& evidence) {
  const SlotTable& slots = evidence.slots();
  return slots.position[slots.cell(0, slots.length.front() - 1)];
}

/// The frequencies of every pass until `tokens` tokens have been seen.
std::vector<double> frequencies(const LayerEvidence& evidence, std::int64_t tokens) {
  const RopeParameters& rope = evidence.shape().rope_of(evidence.moment().layer);
  KVSCOPE_CHECK(rope.frequencies(tokens) == rope.inverse_frequency, ErrorCode::unsupported,
                fmt::format("the rotation grows with the sequence, and differs at {} tokens: "
                            "queries cannot be turned back exactly",
                            tokens),
                fmt::format("layer {}", evidence.moment().layer),
                fmt::format("use a prompt within the original context of {} tokens, or a method "
                            "that reads rotated queries",
                            rope.original_context));
  return rope.inverse_frequency;
}

Angles angles_at(const LayerEvidence& evidence, std::int64_t first, std::int64_t count,
                 const at::TensorOptions& options) {
  const std::vector<double> table = frequencies(evidence, first + count);
  at::Tensor frequency = at::empty({static_cast<std::int64_t>(table.size())}, at::kFloat);
  std::transform(table.begin(), table.end(), frequency.mutable_data_ptr<float>(),
                 [](double value) { return static_cast<float>(value); });
  const at::Tensor angle =
      at::arange(first, first + count, options).unsqueeze(1) * frequency.to(options.device());
  return {angle.cos(), angle.sin()};
}

/// Turns the leading channels of [..., head_dim] by half-split pairs; the rest passes through.
at::Tensor turned(const at::Tensor& rows, const at::Tensor& cosine, const at::Tensor& sine) {
  const std::int64_t bands = cosine.size(-1);
  const at::Tensor first = rows.narrow(-1, 0, bands);
  const at::Tensor second = rows.narrow(-1, bands, bands);
  return at::cat({first * cosine - second * sine, second * cosine + first * sine,
                  rows.narrow(-1, 2 * bands, rows.size(-1) - 2 * bands)},
                 -1);
}

}  // namespace

at::Tensor queries_pre_rope(const LayerEvidence& evidence) {
  const int seen = evidence.moment().tokens_seen;
  const at::Tensor queries = evidence.queries(seen);
  const RopeParameters& rope = evidence.shape().rope_of(evidence.moment().layer);
  const Angles angles =
      angles_at(evidence, newest_position(evidence) + 1 - seen, seen, queries.options());
  const double scale = 1 / rope.attention_factor;
  return turned(queries, angles.cosine * scale, angles.sine * -scale);
}

at::Tensor turned_to_future(const at::Tensor& rows, const LayerEvidence& evidence, int count) {
  const RopeParameters& rope = evidence.shape().rope_of(evidence.moment().layer);
  const Angles angles = angles_at(evidence, newest_position(evidence) + 1, count, rows.options());
  return turned(rows, angles.cosine.mean(0) * rope.attention_factor,
                angles.sine.mean(0) * rope.attention_factor);
}

}  // namespace kvscope::detail
