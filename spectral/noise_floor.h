#pragma once

#include <span>
#include <string>

namespace kvscope::spectral {

/// Root-mean-square error that storing left in each entry of a row-major matrix
/// (specs/spectral.md 3.4): floating types perturb by 0.425 * 2^-s relative, s significant bits;
/// b-bit group types by scale / sqrt(12), the scale of a block being recovered from its dequantised
/// range. NaN for a type whose rounding is not known.
double storage_error(std::span<const float> weights, int columns, const std::string& dtype);

/// Singular values below this are not trustworthy: error * (sqrt(rows) + sqrt(columns)).
double noise_floor(double error, int rows, int columns);

}  // namespace kvscope::spectral
