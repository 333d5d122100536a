#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvscope {

/// Numbers value * factor of indices first_index, first_index + 1, ...
struct ScaledValues {
  static constexpr int block = 16;
  const float* values = nullptr;
  std::int64_t count = 0;
  std::int32_t first_index = 0;
  float factor = 1;               ///< not negative where there are maxima
  const float* maxima = nullptr;  ///< of blocks of `block` values, the last one shorter; all or
                                  ///< none of several pieces have them
};

struct RankedValue {
  std::int32_t index;
  float value;
};

/// The `count` largest numbers of pieces that follow one another, descending; equal ones: the lower
/// index first; NaN is never among them. `hint`: a number that about `count` of them reach, such as
/// the last one chosen from similar numbers before, or NaN; a bad one costs time only. It is set to
/// what will serve next time.
std::vector<RankedValue> largest(std::span<const ScaledValues> pieces, int count, float& hint);

}  // namespace kvscope
