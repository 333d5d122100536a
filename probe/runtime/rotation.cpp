#include "rotation.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <cmath>

namespace kvscope::detail {

Rotation rotation_of(const RopeParameters& rope, std::span<const std::int32_t> positions,
                     at::Device device) {
  const auto half = static_cast<std::int64_t>(rope.inverse_frequency.size());
  const auto rows = static_cast<std::int64_t>(positions.size());
  Rotation rotation{at::empty({rows, half}, at::kFloat), at::empty({rows, half}, at::kFloat)};
  float* cosine = rotation.cosine.mutable_data_ptr<float>();
  float* sine = rotation.sine.mutable_data_ptr<float>();
  const auto factor = static_cast<float>(rope.attention_factor);
  for (const std::int32_t position : positions) {
    for (const double frequency : rope.inverse_frequency) {
      const float angle = static_cast<float>(position) * static_cast<float>(frequency);
      *cosine++ = std::cos(angle) * factor;
      *sine++ = std::sin(angle) * factor;
    }
  }
  if (!device.is_cpu()) {
    rotation.cosine = rotation.cosine.to(device);
    rotation.sine = rotation.sine.to(device);
  }
  return rotation;
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, const RopeParameters& rope,
                  bool inverse) {
  const std::int64_t half = rope.dims / 2;
  const double squared = rope.attention_factor * rope.attention_factor;
  const at::Tensor cosine = inverse ? rotation.cosine.div(squared) : rotation.cosine;
  const at::Tensor sine = inverse ? rotation.sine.div(-squared) : rotation.sine;
  const at::Tensor first = x.narrow(-1, 0, half);
  const at::Tensor second = x.narrow(-1, half, half);
  const at::Tensor rest = x.narrow(-1, rope.dims, x.size(-1) - rope.dims);
  return at::cat(
      {first.mul(cosine).sub(second.mul(sine)), second.mul(cosine).add(first.mul(sine)), rest}, -1);
}

}  // namespace kvscope::detail
