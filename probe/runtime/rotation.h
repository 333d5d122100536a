#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>

#include "kvscope/core/shape.h"

namespace kvscope::detail {

/// Cosine and sine of the rotary angles: [rows, dims / 2], attention factor included.
struct Rotation {
  at::Tensor cosine;
  at::Tensor sine;
  double attention_factor = 1;
  std::int64_t dims() const { return 2 * cosine.size(1); }
};

/// Angles position * frequency in `type`: float32, as the Hugging Face models compute them, or
/// float64. Where the rotation grows with the sequence, a row uses the table of a sequence that
/// ends with it, but at least `shortest` tokens long (the prompt): as one pass over the prompt and
/// then token by token.
Rotation rotation_of(const RopeParameters& rope, std::span<const std::int32_t> positions,
                     at::Device device, int shortest = 0, at::ScalarType type = at::kFloat);

/// Rotates the last axis of x [..., rows, head_dim], in the type of the rotation; `inverse` undoes it exactly up to
/// rounding. Channels from `rotation.dims()` on pass through.
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, bool inverse = false);

/// The rotations of one pass: computed once for layers that rotate alike.
class PassRotations {
 public:
  PassRotations(const ModelShape& shape, std::span<const std::int32_t> positions, int shortest,
                at::Device device)
      : shape_(shape), positions_(positions), shortest_(shortest), device_(device) {}

  const Rotation& of(int layer);

 private:
  const ModelShape& shape_;
  std::span<const std::int32_t> positions_;
  int shortest_;
  at::Device device_;
  std::map<int, Rotation> known_;  ///< by the first layer that rotates so
};

}  // namespace kvscope::detail
