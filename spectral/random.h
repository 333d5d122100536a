#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace kvscope::spectral {

/// Numbers that are the same on every machine with IEEE doubles: splitmix64 and Box-Muller.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t mixed = (state_ ^ (state_ >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
  }
  /// In [0, 1).
  double uniform() { return std::ldexp(static_cast<double>(bits() >> 11), -53); }
  /// In [0, count); the bias of 2^-64 count does not matter here.
  std::uint64_t below(std::uint64_t count) { return bits() % count; }
  /// Standard normal.
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  std::uint64_t state_;
};

}  // namespace kvscope::spectral
