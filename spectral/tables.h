#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint.h"
#include "kvscope/core/shape.h"
#include "kvscope/core/spectrum.h"
#include "metrics.h"
#include "weights.h"

namespace kvscope::spectral {

inline constexpr int projections = 4;
inline constexpr std::array<const char*, projections> projection_names = {"q", "k", "v", "o"};

/// Layout of projection `p` of `projection_names` under a model's shape.
ProjectionLayout layout_of(int p, const ModelShape& shape);
/// "q_head" or "kv_head".
std::string head_axis(int p);

/// A table of NaN.
SpectrumTable missing_table(std::vector<int> shape, std::vector<std::string> axes,
                            std::string units, std::string long_name, std::string formula);

/// Copies `values` into row `row` of rows of `width`; what is missing stays NaN.
void copy_row(const std::vector<double>& values, SpectrumTable& table, std::size_t row,
              std::size_t width);

/// Nulls repeat over layers and heads; each shape is integrated once.
class NullCache {
 public:
  const SpectrumMetrics& get(int n, int larger);

 private:
  std::map<std::pair<int, int>, SpectrumMetrics> nulls_;
};

/// The metric tables of one group of places: "metrics/layer/" or "metrics/head/<proj>/".
class MetricTables {
 public:
  MetricTables(Spectrum& spectrum, std::string prefix, std::vector<int> shape,
               std::vector<std::string> axes, MetricSet set);
  void write(std::size_t place, const SpectrumMetrics& metrics, const SpectrumMetrics& null,
             double modes);

 private:
  std::vector<double>& table(const std::string& name, bool by_energy, std::string units,
                             std::string long_name, std::string formula);
  Spectrum& spectrum_;
  std::string prefix_;
  std::vector<int> shape_;
  std::vector<std::string> axes_;
  MetricSet set_;
};

/// Writes status, spectra, metrics, nulls, noise floors and times of all matrices into `spectrum`,
/// whose shape and layers are set.
void fill_tables(const std::vector<LayerResult>& layers, const ModelShape& shape,
                 const SpectralOptions& options, Spectrum& spectrum);

/// Writes products and alignments; after `fill_tables`.
void fill_products(const std::vector<LayerResult>& layers, const SpectralOptions& options,
                   Spectrum& spectrum);

/// Adds the asymmetry group (specs/spectral.md 4.1) from the metric tables.
void fill_asymmetry(std::uint64_t seed, Spectrum& spectrum);

}  // namespace kvscope::spectral
