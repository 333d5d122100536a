#pragma once

// Without the standard library: the inner loops for each instruction set include it.

#include <cstdint>

namespace kvscope {

/// Numbers value * factor of indices first_index, first_index + 1, ...
struct ScaledValues {
  static constexpr int group = 16;
  const float* values = nullptr;
  std::int64_t count = 0;
  std::int32_t first_index = 0;
  float factor = 1;               ///< not negative; not 0 with infinite values
  const float* maxima = nullptr;  ///< of groups of `group` values, the last one shorter, without
                                  ///< those that are NaN (-inf where all are); null: not known
};

struct RankedValue {
  std::int32_t index;
  float value;
};

}  // namespace kvscope
