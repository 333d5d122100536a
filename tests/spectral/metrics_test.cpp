#include "metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "noise_floor.h"
#include "spectra.h"

namespace kvscope::spectral {
namespace {

const double unknown = std::numeric_limits<double>::quiet_NaN();

TEST(Metrics, OrthonormalRows) {
  const std::vector<double> flat(20, 4.0);
  const SpectrumMetrics m = metrics_of(flat, 0.0);
  for (const Metric rank : {Metric::stable_rank, Metric::participation_ratio, Metric::erank_energy,
                            Metric::erank_sv, Metric::rank_numeric, Metric::rank_storage}) {
    EXPECT_NEAR(m[rank], 20, 1e-12);
  }
  EXPECT_NEAR(m[Metric::entropy], 1, 1e-14);
  EXPECT_NEAR(m[Metric::gini], 0, 1e-14);
  EXPECT_NEAR(m[Metric::cond], 1, 1e-14);
  EXPECT_NEAR(m[Metric::fro2], 80, 1e-12);
  EXPECT_NEAR(m[Metric::sigma_max], 2, 1e-14);
  EXPECT_EQ(m.energy_rank, (std::array<double, 4>{10, 18, 19, 20})) << "k_tau = ceil(tau n)";
}

TEST(Metrics, RankOne) {
  std::vector<double> one(16, 0.0);
  one[0] = 9;
  const SpectrumMetrics m = metrics_of(one, 0.1);
  EXPECT_EQ(m[Metric::stable_rank], 1);
  EXPECT_EQ(m[Metric::participation_ratio], 1);
  EXPECT_EQ(m[Metric::erank_energy], 1);
  EXPECT_EQ(m[Metric::erank_sv], 1);
  EXPECT_EQ(m[Metric::entropy], 0);
  EXPECT_NEAR(m[Metric::gini], 1 - 1.0 / 16, 1e-15);
  EXPECT_EQ(m[Metric::rank_numeric], 1);
  EXPECT_EQ(m[Metric::cond], std::numeric_limits<double>::infinity());
  EXPECT_EQ(m.energy_rank, (std::array<double, 4>{1, 1, 1, 1}));
}

TEST(Metrics, TwoLevelsByHand) {
  // 2 values of 4 and 4 of 1: sum 12, squares 36; p = 1/3 twice, 1/12 four times.
  const std::vector<double> levels = {4, 4, 1, 1, 1, 1};
  const SpectrumMetrics m = metrics_of(levels, 1.5);
  EXPECT_NEAR(m[Metric::stable_rank], 3, 1e-14);
  EXPECT_NEAR(m[Metric::participation_ratio], 4, 1e-14);
  EXPECT_NEAR(m[Metric::erank_energy], std::exp(2.0 / 3 * std::log(3.0) + 1.0 / 3 * std::log(12.0)),
              1e-13);
  EXPECT_NEAR(m[Metric::erank_sv], std::exp(0.5 * std::log(4.0) + 0.5 * std::log(8.0)), 1e-13);
  EXPECT_EQ(m[Metric::rank_storage], 2);
  EXPECT_NEAR(m[Metric::cond], 1, 1e-14) << "only modes above the floor";
  EXPECT_EQ(m.energy_rank, (std::array<double, 4>{2, 5, 6, 6}));
}

TEST(Metrics, GeometricSpectrum) {
  const double r = 0.9;
  std::vector<double> values(400);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = std::pow(r, static_cast<double>(i));
  }
  const SpectrumMetrics m = metrics_of(values, unknown);
  EXPECT_NEAR(m[Metric::participation_ratio], (1 + r) / (1 - r), 1e-9);
  EXPECT_NEAR(m[Metric::stable_rank], 1 / (1 - r), 1e-9);
  EXPECT_NEAR(std::log(m[Metric::erank_energy]), -std::log(1 - r) - r * std::log(r) / (1 - r),
              1e-9);
  EXPECT_TRUE(std::isnan(m[Metric::rank_storage])) << "no floor known";
}

TEST(Metrics, ZeroAndSingle) {
  const std::vector<double> zero(5, 0.0);
  const SpectrumMetrics m = metrics_of(zero, 0.0);
  EXPECT_EQ(m[Metric::rank_numeric], 0);
  EXPECT_EQ(m[Metric::fro2], 0);
  EXPECT_TRUE(std::isnan(m[Metric::stable_rank]));
  EXPECT_TRUE(std::isnan(m[Metric::cond]));
  const std::vector<double> single = {7.0};
  EXPECT_EQ(metrics_of(single, 0.0)[Metric::erank_sv], 1);
  EXPECT_EQ(metrics_of(single, 0.0)[Metric::entropy], 1);
}

TEST(Metrics, OrderingTheoremOnRandomSpectra) {
  Gauss gauss(5);
  for (int trial = 0; trial < 500; ++trial) {
    std::vector<double> values(24);
    for (double& value : values) {
      value = std::exp(3 * gauss());
    }
    std::sort(values.rbegin(), values.rend());
    const SpectrumMetrics m = metrics_of(values, unknown);
    EXPECT_LE(1, m[Metric::stable_rank]);
    EXPECT_LE(m[Metric::stable_rank], m[Metric::participation_ratio] * (1 + 1e-12));
    EXPECT_LE(m[Metric::participation_ratio], m[Metric::erank_energy] * (1 + 1e-12));
    EXPECT_LE(m[Metric::erank_energy], m[Metric::erank_sv] * (1 + 1e-12));
    EXPECT_LE(m[Metric::erank_sv], 24 * (1 + 1e-12));
  }
}

TEST(GaussianNull, TableOfTheSpecification) {
  // specs/spectral.md 3.3, columns 4096x4096, 1024x4096, 128x4096, 192x576, 64x576.
  const int n[] = {4096, 1024, 128, 192, 64};
  const int larger[] = {4096, 4096, 4096, 576, 576};
  const double pr[] = {0.500, 0.800, 0.970, 0.749, 0.899};
  const double energy[] = {0.607, 0.883, 0.985, 0.847, 0.946};
  const double sv[] = {0.805, 0.966, 0.996, 0.954, 0.985};
  const double stable[] = {0.25, 0.444, 0.722, 0.402, 0.563};
  for (int i = 0; i < 5; ++i) {
    const SpectrumMetrics null = gaussian_null(n[i], larger[i]);
    EXPECT_NEAR(null[Metric::participation_ratio] / n[i], pr[i], 0.001);
    EXPECT_NEAR(null[Metric::erank_energy] / n[i], energy[i], 0.001);
    EXPECT_NEAR(null[Metric::erank_sv] / n[i], sv[i], 0.002);
    EXPECT_NEAR(null[Metric::stable_rank] / n[i], stable[i], 0.001);
  }
}

TEST(GaussianNull, AgreesWithSampledMatrices) {
  for (const auto& [rows, columns] : {std::pair(128, 512), std::pair(300, 300)}) {
    const SpectrumMetrics m = metrics_of(spectrum_of(gaussian(rows, columns, 77)), unknown);
    const SpectrumMetrics null = gaussian_null(rows, columns);
    for (const Metric metric :
         {Metric::participation_ratio, Metric::erank_energy, Metric::erank_sv, Metric::entropy}) {
      EXPECT_NEAR(m[metric] / null[metric], 1, 0.01) << metric_info(metric).name;
    }
    EXPECT_NEAR(m[Metric::gini], null[Metric::gini], 0.01);
    EXPECT_NEAR(m[Metric::stable_rank] / null[Metric::stable_rank], 1, 0.06)
        << "edge of a finite matrix";
    for (std::size_t level = 0; level < energy_levels.size(); ++level) {
      EXPECT_NEAR(m.energy_rank[level] / null.energy_rank[level], 1, 0.03);
    }
  }
}

TEST(Eigenvalues, PrescribedSpectrumBothSolvers) {
  for (const int n : {60, 300}) {  // Eigen, LAPACK
    std::vector<double> singular(static_cast<std::size_t>(n));
    for (int i = 0; i < n; ++i) {
      singular[static_cast<std::size_t>(i)] = std::pow(i + 1.0, -0.7);
    }
    const std::vector<double> values = spectrum_of(with_spectrum(n, n + 40, singular, 3));
    ASSERT_EQ(values.size(), singular.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], singular[i] * singular[i], 1e-6) << "float32 weights";
    }
  }
}

TEST(Eigenvalues, HadamardOfOrder512) {
  const int n = 512;
  Matrix hadamard(n, n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      hadamard.at(i, j) = __builtin_popcount(static_cast<unsigned>(i & j)) % 2 == 0 ? 1 : -1;
    }
  }
  for (const double value : spectrum_of(hadamard)) {
    EXPECT_NEAR(value, n, 1e-10);
  }
}

TEST(Eigenvalues, TransposeAndOrthogonalInvariance) {
  Matrix w = gaussian(40, 90, 8);
  const std::vector<double> before = spectrum_of(w);
  reflect(w, true, 1);
  reflect(w, false, 2);
  const std::vector<double> after = spectrum_of(w);
  Matrix transposed(90, 40);
  for (int i = 0; i < 40; ++i) {
    for (int j = 0; j < 90; ++j) {
      transposed.at(j, i) = w.at(i, j);
    }
  }
  const std::vector<double> flipped = spectrum_of(transposed);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_NEAR(after[i] / before[i], 1, 1e-5);
    EXPECT_NEAR(flipped[i] / after[i], 1, 1e-12);
  }
}

TEST(NoiseFloor, FloatsAndGroups) {
  const std::vector<float> weights = {0, 1, 2, 3, 4, 5, 6, 15, -1, -1, -1, -1, -1, -1, -1, -1};
  EXPECT_NEAR(storage_error(weights, 8, "F16"), 0.425 / 2048 * std::sqrt((91.0 + 225 + 8) / 16),
              1e-12);
  // Q4_1: a block (the whole row of 8) spans 15 in 15 steps of 1; the flat row loses nothing.
  EXPECT_NEAR(storage_error(weights, 8, "Q4_1"), std::sqrt(0.5 / 12), 1e-12);
  EXPECT_TRUE(std::isnan(storage_error(weights, 8, "mystery")));
  EXPECT_NEAR(noise_floor(2, 9, 16), 14, 1e-12);
}

TEST(NoiseFloor, Bfloat16RoundingStaysBelowIt) {
  const Matrix w = gaussian(96, 200, 4);
  std::vector<float> rounded(w.data.size());
  Matrix error(96, 200);
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    int exponent = 0;
    const double mantissa = std::frexp(w.data[i], &exponent);
    rounded[i] =
        static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8));
    error.data[i] = static_cast<double>(rounded[i]) - w.data[i];
  }
  const double floor = noise_floor(storage_error(rounded, 200, "BF16"), 96, 200);
  const double norm = std::sqrt(spectrum_of(error).front());
  EXPECT_NEAR(norm / floor, 1, 0.1);
}

}  // namespace
}  // namespace kvscope::spectral
