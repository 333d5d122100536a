#include "rotation.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace kvscope::detail {
namespace {

bool rotate_alike(const RopeParameters& a, const RopeParameters& b) {
  return a.inverse_frequency == b.inverse_frequency && a.attention_factor == b.attention_factor &&
         a.growth == b.growth && a.base == b.base && a.original_context == b.original_context &&
         a.growth_factor == b.growth_factor && a.long_inverse_frequency == b.long_inverse_frequency;
}

/// Fills cosine and sine of rows [first, last) in the number type `Real`.
template <typename Real>
void fill(const RopeParameters& rope, std::span<const std::int32_t> positions, int shortest,
          std::int64_t first, std::int64_t last, Rotation& rotation) {
  const std::int64_t half = rotation.cosine.size(1);
  Real* cosine = rotation.cosine.mutable_data_ptr<Real>() + first * half;
  Real* sine = rotation.sine.mutable_data_ptr<Real>() + first * half;
  const auto factor = static_cast<Real>(rope.attention_factor);
  std::vector<double> frequencies = rope.inverse_frequency;
  int table = -1;
  for (std::int64_t row = first; row < last; ++row) {
    const std::int32_t position = positions[static_cast<std::size_t>(row)];
    if (const int tokens = std::max(shortest, position + 1);
        rope.growth != RopeGrowth::fixed && tokens != table) {
      frequencies = rope.frequencies(tokens);
      table = tokens;
    }
    for (const double frequency : frequencies) {
      const Real angle = static_cast<Real>(position) * static_cast<Real>(frequency);
      *cosine++ = std::cos(angle) * factor;
      *sine++ = std::sin(angle) * factor;
    }
  }
}

}  // namespace

Rotation rotation_of(const RopeParameters& rope, std::span<const std::int32_t> positions,
                     at::Device device, int shortest, at::ScalarType type) {
  const auto half = static_cast<std::int64_t>(rope.inverse_frequency.size());
  const auto rows = static_cast<std::int64_t>(positions.size());
  Rotation rotation{at::empty({rows, half}, type), at::empty({rows, half}, type),
                    rope.attention_factor};
  constexpr std::int64_t rows_of_task = 256;
  at::parallel_for(0, rows, rows_of_task, [&](std::int64_t first, std::int64_t last) {
    if (type == at::kDouble) {
      fill<double>(rope, positions, shortest, first, last, rotation);
    } else {
      fill<float>(rope, positions, shortest, first, last, rotation);
    }
  });
  if (!device.is_cpu()) {
    rotation.cosine = rotation.cosine.to(device);
    rotation.sine = rotation.sine.to(device);
  }
  return rotation;
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, bool inverse) {
  const std::int64_t half = rotation.dims() / 2;
  const double squared = rotation.attention_factor * rotation.attention_factor;
  const at::Tensor cosine = inverse ? rotation.cosine.div(squared) : rotation.cosine;
  const at::Tensor sine = inverse ? rotation.sine.div(-squared) : rotation.sine;
  const at::Tensor first = x.narrow(-1, 0, half);
  const at::Tensor second = x.narrow(-1, half, half);
  const at::Tensor rest = x.narrow(-1, 2 * half, x.size(-1) - 2 * half);
  return at::cat(
      {first.mul(cosine).sub(second.mul(sine)), second.mul(cosine).add(first.mul(sine)), rest}, -1);
}

const Rotation& PassRotations::of(int layer) {
  for (const auto& [known, rotation] : known_) {
    if (rotate_alike(shape_.rope_of(known), shape_.rope_of(layer))) {
      return rotation;
    }
  }
  return known_.emplace(layer, rotation_of(shape_.rope_of(layer), positions_, device_, shortest_))
      .first->second;
}

}  // namespace kvscope::detail
