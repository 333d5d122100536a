#include "noise_floor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

namespace kvscope::spectral {
namespace {

struct FloatType {
  std::string_view name;
  int significant_bits;
};
constexpr std::array<FloatType, 5> float_types = {
    {{"F64", 53}, {"F32", 24}, {"F16", 11}, {"BF16", 8}, {"F8_E4M3", 4}}};

/// A block of `size` weights shares one step: its range (or its largest magnitude) over `steps`.
struct GroupType {
  std::string_view name;
  int size;
  bool symmetric;
  double steps;
};
constexpr std::array<GroupType, 11> group_types = {{{"Q4_0", 32, true, 8},
                                                    {"Q4_1", 32, false, 15},
                                                    {"Q5_0", 32, true, 16},
                                                    {"Q5_1", 32, false, 31},
                                                    {"Q8_0", 32, true, 127},
                                                    {"Q8_1", 32, true, 127},
                                                    {"Q2_K", 16, false, 3},
                                                    {"Q3_K", 16, true, 4},
                                                    {"Q4_K", 32, false, 15},
                                                    {"Q5_K", 32, false, 31},
                                                    {"Q6_K", 16, true, 32}}};

double rms(std::span<const float> weights) {
  double sum = 0;
  for (const float weight : weights) {
    sum += static_cast<double>(weight) * static_cast<double>(weight);
  }
  return weights.empty() ? 0 : std::sqrt(sum / static_cast<double>(weights.size()));
}

double group_error(std::span<const float> weights, int columns, const GroupType& type) {
  double squares = 0;
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t row = 0; row < weights.size(); row += width) {
    for (std::size_t first = 0; first < width; first += static_cast<std::size_t>(type.size)) {
      const auto block = weights.subspan(
          row + first, std::min<std::size_t>(static_cast<std::size_t>(type.size), width - first));
      float low = block.front();
      float high = block.front();
      for (const float value : block) {  // as the compiler vectorises it
        low = value < low ? value : low;
        high = value > high ? value : high;
      }
      const double range = type.symmetric
                               ? static_cast<double>(std::max(std::abs(low), std::abs(high)))
                               : static_cast<double>(high) - static_cast<double>(low);
      const double step = range / type.steps;
      squares += step * step * static_cast<double>(block.size());
    }
  }
  return weights.empty() ? 0 : std::sqrt(squares / static_cast<double>(weights.size()) / 12);
}

}  // namespace

double storage_error(std::span<const float> weights, int columns, const std::string& dtype) {
  for (const FloatType& type : float_types) {
    if (dtype == type.name) {
      return 0.425 * std::ldexp(rms(weights), -type.significant_bits);
    }
  }
  for (const GroupType& type : group_types) {
    if (dtype == type.name) {
      return group_error(weights, columns, type);
    }
  }
  return std::numeric_limits<double>::quiet_NaN();
}

double noise_floor(double error, int rows, int columns) {
  return error * (std::sqrt(static_cast<double>(rows)) + std::sqrt(static_cast<double>(columns)));
}

}  // namespace kvscope::spectral
