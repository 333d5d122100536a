#pragma once

#include <string>
#include <vector>

#include "kvscope/core/spectrum.h"

namespace kvscope {

/// One curve of a plot: x ascending.
struct Curve {
  std::string label;
  std::vector<double> x;
  std::vector<double> y;
};

/// Eigenvalues of one layer's projections by rank, as shares of their sum: log-log.
std::vector<Curve> eigen_curves(const Spectrum& spectrum, int row);

/// A table by layer of each projection, e.g. "metrics/layer/erank_energy_rel": [layers] per
/// projection.
std::vector<Curve> layer_curves(const Spectrum& spectrum, const std::string& metric);

/// The asymmetry index by layer: A_KV with its head quartiles where they exist.
std::vector<Curve> asymmetry_curves(const Spectrum& spectrum);

/// A metric by layer and head of one projection: [layers, heads], rows top to bottom; empty if
/// absent.
struct HeadGrid {
  int layers = 0;
  int heads = 0;
  std::vector<double> values;
};
HeadGrid head_grid(const Spectrum& spectrum, const std::string& projection,
                   const std::string& metric);

}  // namespace kvscope
