#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "kvscope/core/shape.h"

namespace kvscope::detail {

/// Cosine and sine of the rotary angles: [rows, dims / 2] float32, attention factor included.
struct Rotation {
  at::Tensor cosine;
  at::Tensor sine;
};

/// Angles position * inverse_frequency in float32, as the Hugging Face models compute them.
Rotation rotation_of(const RopeParameters& rope, std::span<const std::int32_t> positions,
                     at::Device device);

/// Rotates the last axis of x [..., rows, head_dim] float32; `inverse` undoes it exactly up to
/// rounding.
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, const RopeParameters& rope,
                  bool inverse = false);

}  // namespace kvscope::detail
