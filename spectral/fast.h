#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "gram.h"

namespace kvscope::spectral {

/// What needs no eigensolver (specs/spectral.md 5.4).
struct FastSpectrum {
  double trace = std::numeric_limits<double>::quiet_NaN();    ///< sum lambda
  double square = std::numeric_limits<double>::quiet_NaN();   ///< sum lambda^2, the norm of G
  double largest = std::numeric_limits<double>::quiet_NaN();  ///< lambda_1 from below
  double bound = std::numeric_limits<double>::quiet_NaN();    ///< some eigenvalue lies this near
};

/// Trace and norm of a full symmetric matrix, and its largest eigenvalue from up to 30 Lanczos
/// steps with full reorthogonalisation, or fewer once its residual is below 1e-6 of it. Values are
/// scaled back by 2^(2 exponent).
FastSpectrum fast_spectrum(const AlignedDoubles& matrix, int n, int exponent, std::uint64_t seed);

/// The largest `count` singular values by randomised projection with two power iterations and ten
/// spare directions (Halko, Martinsson and Tropp 2011, algorithm 4.4); never above the true ones
/// but for rounding. For views of the top only: no entropy or energy rank may be derived from them.
std::vector<double> randomised_singular_values(const WeightView& w, int count, std::uint64_t seed);

}  // namespace kvscope::spectral
