#include "metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <vector>

#include "tail_fits.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// Hill exponent, power law, Marchenko-Pastur bulk and Gavish-Donoho rank.
void add_fits(std::span<const double> eigenvalues, int larger, SpectrumMetrics& metrics) {
  metrics[Metric::alpha_hill] = hill_exponent(eigenvalues);
  const double negligible = static_cast<double>(eigenvalues.size()) *
                            std::numeric_limits<double>::epsilon() * eigenvalues.front();
  const PowerLaw law = fit_power_law(eigenvalues, negligible);
  metrics[Metric::alpha_pl] = law.alpha;
  metrics[Metric::pl_D] = law.distance;
  metrics[Metric::pl_xmin] = law.x_min;
  metrics[Metric::pl_sigma] = law.sigma;
  const Bulk bulk = fit_bulk(eigenvalues, larger);
  metrics[Metric::mp_sigma2] = bulk.variance;
  metrics[Metric::mp_edge] = bulk.edge;
  metrics[Metric::n_spikes] = bulk.spikes;
  metrics[Metric::mp_softrank] = bulk.edge / eigenvalues.front();
  metrics[Metric::rank_gd] = bulk.rank;
}

constexpr std::array<MetricInfo, metric_count> infos = {{
    {"fro2", "weight^2", "squared Frobenius norm", "sum lambda", false, false},
    {"sigma_max", "weight", "largest singular value", "sqrt(lambda_1)", false, false},
    {"stable_rank", "1", "stable rank", "sum lambda / lambda_1", true, true},
    {"participation_ratio", "1", "participation ratio", "(sum lambda)^2 / sum lambda^2", true,
     true},
    {"erank_energy", "1", "effective rank on energy", "exp(-sum p ln p), p = lambda / sum lambda",
     true, true},
    {"erank_sv", "1", "effective rank on singular values (Roy and Vetterli 2007)",
     "exp(-sum q ln q), q = s / sum s", true, true},
    {"entropy", "1", "normalised entropy of the energy", "-sum p ln p / ln n", true, false},
    {"gini", "1", "Gini coefficient of the energy", "sum_i (2 i - n - 1) p_(i) / n, ascending",
     true, false},
    {"rank_numeric", "1", "numeric rank", "count lambda_i > n eps lambda_1", false, true},
    {"rank_storage", "1", "modes above the noise floor of the storage type",
     "count s_i > noise_floor", false, true},
    {"cond", "1", "condition number of the modes above the noise floor",
     "s_1 / min s_i > noise_floor", false, false},
    {"alpha_hill", "1", "Hill exponent of the upper half",
     "1 + k / sum_{i<=k} ln(lambda_i / lambda_{k+1}), k = n / 2", true, false},
    {"alpha_pl", "1", "power-law exponent of the tail above pl_xmin",
     "1 + N / sum ln(lambda / x_min)", false, false},
    {"pl_D", "1", "Kolmogorov-Smirnov distance of the power law", "max |F_fit - F_empirical|",
     false, false},
    {"pl_xmin", "weight^2", "start of the tail", "argmin of pl_D", false, false},
    {"pl_sigma", "1", "standard error of alpha_pl", "(alpha_pl - 1) / sqrt(N)", false, false},
    {"mp_sigma2", "weight^2", "variance of an entry of the bulk",
     "median lambda / (N median of the Marchenko-Pastur law)", false, false},
    {"mp_edge", "weight^2", "upper edge of the bulk", "mp_sigma2 (sqrt N + sqrt n)^2", false,
     false},
    {"n_spikes", "1", "eigenvalues above the bulk",
     "count lambda_i > mp_edge + 3 Tracy-Widom scales", false, false},
    {"mp_softrank", "1", "edge of the bulk over the largest eigenvalue", "mp_edge / lambda_1",
     false, false},
    {"rank_gd", "1", "modes above the Gavish-Donoho threshold",
     "count s_i > lambda(n / N) sqrt(N mp_sigma2)", false, false},
}};

double entropy_of(std::span<const double> weights, double sum) {
  double entropy = 0;
  for (const double weight : weights) {
    if (weight > 0) {
      entropy -= weight / sum * std::log(weight / sum);
    }
  }
  return entropy;
}

int energy_rank(std::span<const double> eigenvalues, double sum, double level) {
  double reached = 0;
  for (std::size_t k = 0; k < eigenvalues.size(); ++k) {
    reached += eigenvalues[k];
    // A level that is met but for rounding is met: an orthonormal matrix has k50 = n / 2.
    if (reached >= level * sum * (1 - 1e-12)) {
      return static_cast<int>(k) + 1;
    }
  }
  return static_cast<int>(eigenvalues.size());
}

}  // namespace

const MetricInfo& metric_info(Metric metric) {
  return infos[static_cast<std::size_t>(metric)];
}

SpectrumMetrics missing_metrics() {
  SpectrumMetrics metrics;
  metrics.value.fill(nan);
  metrics.energy_rank.fill(nan);
  return metrics;
}

SpectrumMetrics metrics_of(std::span<const double> eigenvalues, double noise_floor, MetricSet set,
                           int larger) {
  SpectrumMetrics metrics = missing_metrics();
  const auto n = static_cast<double>(eigenvalues.size());
  const double sum = std::accumulate(eigenvalues.begin(), eigenvalues.end(), 0.0);
  metrics[Metric::fro2] = sum;
  metrics[Metric::sigma_max] = eigenvalues.empty() ? 0 : std::sqrt(eigenvalues.front());
  metrics[Metric::rank_numeric] = 0;
  metrics[Metric::rank_storage] = 0;
  if (sum <= 0) {
    return metrics;
  }
  const double first = eigenvalues.front();
  std::vector<double> singular(eigenvalues.size());
  std::transform(eigenvalues.begin(), eigenvalues.end(), singular.begin(),
                 [](double lambda) { return std::sqrt(lambda); });
  const double singular_sum = std::accumulate(singular.begin(), singular.end(), 0.0);
  const double squares =
      std::inner_product(eigenvalues.begin(), eigenvalues.end(), eigenvalues.begin(), 0.0);
  const double entropy = entropy_of(eigenvalues, sum);
  metrics[Metric::stable_rank] = sum / first;
  metrics[Metric::participation_ratio] = sum / squares * sum;
  metrics[Metric::erank_energy] = std::exp(entropy);
  metrics[Metric::erank_sv] = std::exp(entropy_of(singular, singular_sum));
  metrics[Metric::entropy] = n > 1 ? entropy / std::log(n) : 1.0;
  double gini = 0;
  for (std::size_t i = 0; i < eigenvalues.size(); ++i) {
    gini += (n - 1 - 2 * static_cast<double>(i)) * eigenvalues[i];
  }
  metrics[Metric::gini] = gini / sum / n;
  const double negligible = n * std::numeric_limits<double>::epsilon() * first;
  const auto rank = std::count_if(eigenvalues.begin(), eigenvalues.end(),
                                  [&](double lambda) { return lambda > negligible; });
  metrics[Metric::rank_numeric] = static_cast<double>(rank);
  const double floor = std::isnan(noise_floor) ? 0.0 : noise_floor;
  const auto above =
      std::count_if(singular.begin(), singular.end(), [&](double s) { return s > floor; });
  metrics[Metric::rank_storage] = std::isnan(noise_floor) ? nan : static_cast<double>(above);
  const bool deficient = rank < static_cast<std::ptrdiff_t>(eigenvalues.size());
  metrics[Metric::cond] = deficient || above == 0
                              ? std::numeric_limits<double>::infinity()
                              : singular.front() / singular[static_cast<std::size_t>(above) - 1];
  for (std::size_t level = 0; level < energy_levels.size(); ++level) {
    metrics.energy_rank[level] = energy_rank(eigenvalues, sum, energy_levels[level]);
  }
  if (set == MetricSet::with_fits) {
    add_fits(eigenvalues, larger, metrics);
  }
  return metrics;
}

// With x = 1 + c + 2 sqrt(c) cos(theta) the Marchenko-Pastur density of the eigenvalues (mean 1)
// becomes 2 sin^2(theta) / (pi x) on (0, pi), which the midpoint rule integrates without a
// singularity.
SpectrumMetrics gaussian_null(int n, int larger) {
  SpectrumMetrics null = missing_metrics();
  const auto size = static_cast<double>(n);
  const double c = size / static_cast<double>(larger);
  constexpr int points = 8192;
  constexpr double step = std::numbers::pi / points;
  double count = 0;
  double energy = 0;
  double singular = 0;
  double singular_log = 0;
  double lorenz = 0;
  std::array<double, 4> reached;
  reached.fill(-1);
  for (int i = 0; i < points; ++i) {
    const double theta = (i + 0.5) * step;
    const double x = 1 + c + 2 * std::sqrt(c) * std::cos(theta);
    const double mass = 2 * std::sin(theta) * std::sin(theta) / std::numbers::pi * step;
    const double s = std::sqrt(x);
    lorenz += mass / x * (energy + mass / 2);
    count += mass / x;
    energy += mass;
    singular += mass / x * s;
    singular_log += mass / x * s * std::log(s);
    for (std::size_t level = 0; level < energy_levels.size(); ++level) {
      if (reached[level] < 0 && energy >= energy_levels[level]) {
        reached[level] = count;
      }
    }
  }
  null[Metric::alpha_hill] = hill_null(c);
  null[Metric::stable_rank] = size / ((1 + std::sqrt(c)) * (1 + std::sqrt(c)));
  null[Metric::participation_ratio] = size * larger / (size + larger + 1);
  null[Metric::erank_energy] = size * std::exp(-c / 2);
  null[Metric::erank_sv] = size * std::exp(std::log(singular) - singular_log / singular);
  null[Metric::entropy] = n > 1 ? 1 - c / 2 / std::log(size) : 1.0;
  // lorenz integrates the energy of the strongest share, so the area under the ascending curve is 1
  // - it.
  null[Metric::gini] = 2 * lorenz / (count * energy) - 1;
  for (std::size_t level = 0; level < energy_levels.size(); ++level) {
    null.energy_rank[level] = std::max(1.0, size * reached[level]);
  }
  if (n == 1) {
    for (const Metric metric : {Metric::stable_rank, Metric::participation_ratio,
                                Metric::erank_energy, Metric::erank_sv}) {
      null[metric] = 1;
    }
    null[Metric::gini] = 0;
  }
  return null;
}

}  // namespace kvscope::spectral
