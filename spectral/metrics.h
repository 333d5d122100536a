#pragma once

#include <array>
#include <span>

namespace kvscope::spectral {

/// Core metrics of one spectrum (specs/spectral.md 3.1), in the order they are written.
enum class Metric {
  fro2,
  sigma_max,
  stable_rank,
  participation_ratio,
  erank_energy,
  erank_sv,
  entropy,
  gini,
  rank_numeric,
  rank_storage,
  cond,
  alpha_hill,  ///< from here on optional (specs/spectral.md 3.2)
  alpha_pl,
  pl_D,
  pl_xmin,
  pl_sigma,
  mp_sigma2,
  mp_edge,
  n_spikes,
  mp_softrank,
  rank_gd,
};
inline constexpr int core_metric_count = 11;
inline constexpr int metric_count = 21;

/// How a metric is written: its name in paths, and what its attributes say.
struct MetricInfo {
  const char* name;
  const char* units;
  const char* long_name;
  const char* formula;
  bool has_null;  ///< `_null` and `_rel` are written
  bool is_rank;   ///< `_n`, divided by n, is written
};

const MetricInfo& metric_info(Metric metric);

/// Energies of `energy_rank`.
inline constexpr std::array<double, 4> energy_levels = {0.50, 0.90, 0.95, 0.99};

/// Metrics of one spectrum; NaN where undefined (all eigenvalues zero).
struct SpectrumMetrics {
  std::array<double, metric_count> value{};
  std::array<double, 4> energy_rank{};  ///< k50, k90, k95, k99

  double operator[](Metric metric) const { return value[static_cast<std::size_t>(metric)]; }
  double& operator[](Metric metric) { return value[static_cast<std::size_t>(metric)]; }
};

/// Which metrics are computed: those of every run, or the power law and bulk fits too.
enum class MetricSet { core, with_fits };

/// All NaN: what a matrix without a spectrum gets.
SpectrumMetrics missing_metrics();

/// Metrics of descending eigenvalues of W W^T (not negative). `noise_floor` is in singular-value
/// units; NaN = unknown, then `rank_storage` is NaN and `cond` uses every non-zero mode. `cond` is
/// +inf for a rank-deficient matrix. The fits need `larger`, the other side of W.
SpectrumMetrics metrics_of(std::span<const double> eigenvalues, double noise_floor,
                           MetricSet set = MetricSet::core, int larger = 0);

/// What an n x N matrix of independent Gaussian entries has, n <= N (specs/spectral.md 3.3): closed
/// forms for participation ratio, energy effective rank and stable rank, integrals over the
/// Marchenko-Pastur law for the others. NaN for metrics without a null. Entries of unit variance
/// are not assumed.
SpectrumMetrics gaussian_null(int n, int larger);

}  // namespace kvscope::spectral
