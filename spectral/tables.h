#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kvscope/core/shape.h"
#include "kvscope/core/spectrum.h"
#include "matrix_spectrum.h"

namespace kvscope::spectral {

inline constexpr int projections = 4;
inline constexpr std::array<const char*, projections> projection_names = {"q", "k", "v", "o"};

/// Layout of projection `p` of `projection_names` under a model's shape.
ProjectionLayout layout_of(int p, const ModelShape& shape);

/// A table of NaN.
SpectrumTable missing_table(std::vector<int> shape, std::vector<std::string> axes,
                            std::string units, std::string long_name, std::string formula);

/// Writes status, spectra, metrics, nulls and noise floors of all matrices ([layers, projections])
/// into `spectrum`, whose shape and layers are set.
void fill_tables(const std::vector<MatrixSpectrum>& matrices, const ModelShape& shape,
                 Spectrum& spectrum);

/// Adds the asymmetry group (specs/spectral.md 4.1) from the metric tables.
void fill_asymmetry(std::uint64_t seed, Spectrum& spectrum);

}  // namespace kvscope::spectral
