#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numbers>

namespace kvscope::detail {

/// splitmix64's finalizer: a well-mixed 64-bit word of a counter. Draws are keyed by what they are
/// for, so that they depend on no call order and no shared generator.
inline std::uint64_t mix(std::uint64_t word) {
  word += 0x9E3779B97F4A7C15ULL;
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ULL;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBULL;
  return word ^ (word >> 31);
}

/// The bits of a number, for keys that follow what is drawn for wherever it lies.
inline std::uint64_t bits_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Uniform in [0, 1), 24 bits.
inline float uniform_draw(std::uint64_t key) {
  return static_cast<float>(mix(key) >> 40) * 0x1p-24F;
}

/// Standard normal (Box and Muller).
inline double normal_draw(std::uint64_t key) {
  const double radius = std::sqrt(-2 * std::log(1 - static_cast<double>(uniform_draw(key))));
  return radius * std::cos(2 * std::numbers::pi * static_cast<double>(uniform_draw(~key)));
}

}  // namespace kvscope::detail
