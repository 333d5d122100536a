#include "tail_fits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "metrics.h"
#include "spectra.h"

namespace kvscope::spectral {
namespace {

/// Exact quantiles of the density x^-alpha on [1, inf), descending.
std::vector<double> power_law_quantiles(double alpha, int n) {
  std::vector<double> values;
  for (int i = 0; i < n; ++i) {
    values.push_back(std::pow((i + 0.5) / n, -1 / (alpha - 1)));
  }
  return values;
}

TEST(TailFits, ExactQuantilesGiveTheExponentBack) {
  const std::vector<double> values = power_law_quantiles(3, 4096);
  EXPECT_NEAR(fit_power_law(values, 0).alpha, 3, 0.01) << "specs/spectral.md 7.1";
  EXPECT_NEAR(hill_exponent(values), 3, 0.01);
}

TEST(TailFits, TheFitDoesNotDependOnTheScale) {
  const std::vector<double> values = power_law_quantiles(2.4, 300);
  std::vector<double> small = values;
  for (double& value : small) {
    value *= 0x1p-40;  // WeightWatcher 0.7.7 drops everything below 1e-5
  }
  const PowerLaw a = fit_power_law(values, 0);
  const PowerLaw b = fit_power_law(small, 0);
  EXPECT_NEAR(a.alpha, b.alpha, 1e-9);
  EXPECT_NEAR(a.distance, b.distance, 1e-9);
  EXPECT_NEAR(a.x_min, b.x_min * 0x1p40, 1e-9);
  EXPECT_EQ(a.tail, b.tail);
}

TEST(TailFits, ByHand) {
  // Tail {2, 4, 8}, x_min 2: sum of ln(x / 2) = 3 ln 2, alpha = 1 + 3 / (3 ln 2).
  const std::vector<double> values = {8, 4, 2};
  const PowerLaw law = fit_power_law(values, 3);
  EXPECT_EQ(law.tail, 2) << "2 is not above the limit";
  EXPECT_NEAR(law.alpha, 1 + 2 / std::log(2.0), 1e-12);
  EXPECT_NEAR(hill_exponent(values), 1 + 1 / std::log(2.0), 1e-12);
  EXPECT_TRUE(std::isnan(fit_power_law(std::vector<double>{5, 5, 5}, 0).alpha));
  EXPECT_TRUE(std::isnan(fit_power_law(std::vector<double>{5}, 0).alpha));
}

TEST(TailFits, HillNullsOfTheSpecification) {
  EXPECT_NEAR(hill_null(1), 2.12, 0.01) << "4096 x 4096";
  EXPECT_NEAR(hill_null(0.25), 3.43, 0.03) << "1024 x 4096, sampled there";
  EXPECT_NEAR(hill_null(128.0 / 4096), 7.87, 0.06) << "128 x 4096";
}

TEST(TailFits, BulkMedianIsTheMedianOfASample) {
  std::vector<double> values = spectrum_of(gaussian(200, 800, 5));
  for (double& value : values) {
    value /= 800;
  }
  EXPECT_NEAR(bulk_median(0.25), values[100], 0.02);
}

TEST(TailFits, GaussianMatricesHaveNoSpikes) {
  int with_spikes = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const Bulk bulk = fit_bulk(spectrum_of(gaussian(64, 256, 1000 + seed)), 256);
    EXPECT_NEAR(bulk.variance, 1, 0.1);
    with_spikes += bulk.spikes > 0 ? 1 : 0;
    EXPECT_EQ(bulk.rank, 0);
  }
  EXPECT_LE(with_spikes, 1) << "99 % of seeds";
}

TEST(TailFits, OneSpikeAboveTheTransitionNoneBelow) {
  // A rank-one part of singular value theta * (n N)^(1/4) separates from the bulk for theta > 1.
  const int n = 128;
  const int wide = 512;
  for (const auto& [theta, spikes] : {std::pair(0.9, 0), std::pair(1.5, 1), std::pair(40.0, 1)}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      Matrix w = gaussian(n, wide, 50 + seed);
      const Matrix u = gaussian(1, n, 70 + seed);
      const Matrix v = gaussian(1, wide, 90 + seed);
      const double uu =
          std::sqrt(std::inner_product(u.data.begin(), u.data.end(), u.data.begin(), 0.0));
      const double vv =
          std::sqrt(std::inner_product(v.data.begin(), v.data.end(), v.data.begin(), 0.0));
      const double strength = theta * std::pow(static_cast<double>(n) * wide, 0.25);
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < wide; ++j) {
          w.at(i, j) += strength * u.at(0, i) * v.at(0, j) / (uu * vv);
        }
      }
      const Bulk bulk = fit_bulk(spectrum_of(w), wide);
      EXPECT_EQ(bulk.spikes, spikes) << "theta " << theta << ", seed " << seed;
      EXPECT_NEAR(bulk.variance, 1, 0.06)
          << "a spike 400 times the mean does not move the bulk, as WeightWatcher's fit does";
    }
  }
}

TEST(TailFits, AreWrittenOnlyWhenAsked) {
  const std::vector<double> values = power_law_quantiles(3, 64);
  EXPECT_TRUE(std::isnan(metrics_of(values, 0)[Metric::alpha_pl]));
  const SpectrumMetrics m = metrics_of(values, 0, MetricSet::with_fits, 128);
  EXPECT_NEAR(m[Metric::alpha_pl], 3, 0.2);
  EXPECT_NEAR(m[Metric::pl_sigma], (m[Metric::alpha_pl] - 1) / 8, 0.02);
  EXPECT_NEAR(m[Metric::mp_softrank], m[Metric::mp_edge] / values[0], 1e-12);
}

TEST(TailFits, EntropyOfRankOneIsZero) {
  std::vector<double> values(4096, 0.0);
  values[0] = 3;
  EXPECT_EQ(metrics_of(values, 0)[Metric::entropy], 0) << "WeightWatcher gives 94,290";
  const std::vector<double> flat(4096, 0.25);
  EXPECT_NEAR(metrics_of(flat, 0)[Metric::entropy], 1, 1e-12)
      << "and 1.21 on its CUDA path, through a guard constant of 6e-5";
}

}  // namespace
}  // namespace kvscope::spectral
