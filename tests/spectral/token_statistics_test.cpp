// Identities and statistical laws of specs/spectral.md 7.3 and 7.4.
#include "token_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <numeric>

#include "spectra.h"

namespace kvscope::spectral {
namespace {

/// Stationary tokens: mode i has energy lambda_i and persistence rho_i, plus a mean.
struct Process {
  std::vector<double> lambda;
  std::vector<double> rho;
  std::vector<double> mean;
};

std::vector<double> sample(const Process& process, int tokens, std::uint64_t seed) {
  const std::size_t n = process.lambda.size();
  std::vector<double> rows(static_cast<std::size_t>(tokens) * n);
  Gauss gauss(seed);
  for (int i = 0; i < 20; ++i) {
    gauss();
  }
  for (int t = 0; t < tokens; ++t) {
    for (std::size_t i = 0; i < n; ++i) {
      const double rho = process.rho[i];
      const double fresh = std::sqrt(process.lambda[i]) * gauss();
      double& now = rows[static_cast<std::size_t>(t) * n + i];
      now = t == 0 ? fresh
                   : rho * rows[static_cast<std::size_t>(t - 1) * n + i] +
                         std::sqrt(1 - rho * rho) * fresh;
    }
  }
  for (std::size_t at = 0; at < rows.size() && !process.mean.empty(); ++at) {
    rows[at] += process.mean[at % n];
  }
  return rows;
}

AlignedDoubles identity(int n) {
  AlignedDoubles basis(cells(n, n));
  for (int i = 0; i < n; ++i) {
    basis[cells(i, n) + static_cast<std::size_t>(i)] = 1;
  }
  return basis;
}

AlignedDoubles random_basis(int n, std::uint64_t seed) {
  const Floats floats(gaussian(n, n + 7, seed));
  AlignedDoubles g = gram(floats.view(), GramSide::rows);
  mirror(g, n);
  return std::move(symmetric_eigen(g, n).vectors);
}

TokenStatistics measure(const std::vector<double>& rows, int channels, std::uint64_t seed = 0) {
  const int tokens = static_cast<int>(rows.size()) / channels;
  return token_statistics({rows.data(), tokens, channels}, identity(channels), seed);
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

Process power_law(int n, double exponent, double rho) {
  Process process;
  for (int i = 0; i < n; ++i) {
    process.lambda.push_back(std::pow(i + 1.0, exponent));
    process.rho.push_back(rho);
  }
  return process;
}

TEST(TokenStatistics, IdentitiesOnTheSamePairs) {
  Process process = power_law(24, -0.8, 0.4);
  process.mean.assign(24, 0.1);
  const std::vector<double> rows = sample(process, 300, 4);
  for (const AlignedDoubles& basis : {identity(24), random_basis(24, 6)}) {
    const TokenStatistics s = token_statistics({rows.data(), 300, 24}, basis, 1);
    EXPECT_EQ(s.pairs, 299);
    EXPECT_NEAR(sum(s.contribution), s.cos_mean, 1e-13) << "sum of c_i is the cosine";
    EXPECT_NEAR(sum(s.energy), 1, 1e-13);
    double first = 0;
    for (std::size_t i = 0; i < 24; ++i) {
      first += s.energy[i] * s.persistence[i];
    }
    EXPECT_NEAR(first, s.first_order, 1e-12) << "eq. (1)";
    EXPECT_NEAR(s.beta + (1 - s.beta) * s.rhobar, s.first_order, 1e-12) << "eq. (2)";
    EXPECT_NEAR(sum(s.mean_square_share), s.beta, 1e-12);
    EXPECT_EQ(std::accumulate(s.histogram.begin(), s.histogram.end(), 0.0), 299);
    EXPECT_LE(s.quantiles[0], s.quantiles[2]);
  }
}

TEST(TokenStatistics, ByHand) {
  // Rows (1,0), (1,1), (0,2): cosines 1/sqrt 2 twice; c of channel 0: (1/sqrt 2 + 0) / 2.
  const std::vector<double> rows = {1, 0, 1, 1, 0, 2};
  const TokenStatistics s = measure(rows, 2);
  EXPECT_NEAR(s.cos_mean, std::sqrt(0.5), 1e-15);
  EXPECT_NEAR(s.contribution[0], std::sqrt(0.5) / 2, 1e-15);
  EXPECT_NEAR(s.contribution[1], std::sqrt(0.5) / 2, 1e-15);
  // A = (1 + 2 + 2 + 4) / 4, products 1 and 2.
  EXPECT_NEAR(s.mean_square, 2.25, 1e-15);
  EXPECT_NEAR(s.first_order, 1.5 / 2.25, 1e-15);
  EXPECT_NEAR(s.cos_std, 0, 1e-15);
  // Second moments of the four rows of pairs: [[3, 2], [2, 6]] / 4, eigenvalues (9 +- 5) / 8.
  EXPECT_NEAR(s.output_eigenvalues[0], 1.75, 1e-15);
  EXPECT_NEAR(s.output_eigenvalues[1], 0.5, 1e-15);
  EXPECT_NEAR(lagged_cosine({rows.data(), 3, 2}, 1), s.cos_mean, 1e-15);
  EXPECT_NEAR(lagged_cosine({rows.data(), 3, 2}, 2), 0, 1e-15);
  EXPECT_TRUE(std::isnan(lagged_cosine({rows.data(), 3, 2}, 3)));
}

TEST(TokenStatistics, ZeroAndNonFiniteRowsAreLeftOut) {
  const double nan = std::nan("");
  const std::vector<double> rows = {1, 0, 0, 0, 1, 1, 1, 0, nan, 1, 1, 2};
  const TokenStatistics s = measure(rows, 2);
  EXPECT_EQ(s.pairs, 1);
  EXPECT_EQ(s.dropped, 4);
  EXPECT_NEAR(s.cos_mean, std::sqrt(0.5), 1e-15);
  const TokenStatistics none = measure({1, 2}, 2);
  EXPECT_EQ(none.pairs, 0);
  EXPECT_TRUE(std::isnan(none.cos_mean));
  EXPECT_TRUE(std::isnan(none.contribution[0]));
  EXPECT_EQ(none.contribution.size(), 2u);
}

TEST(TokenStatistics, Invariances) {
  const std::vector<double> rows = sample(power_law(16, -1, 0.5), 400, 8);
  const TokenStatistics s = measure(rows, 16, 3);
  std::vector<double> scaled = rows;
  std::vector<double> reversed(rows.size());
  std::vector<double> shifted = rows;
  for (int t = 0; t < 400; ++t) {
    for (int i = 0; i < 16; ++i) {
      const auto at = static_cast<std::size_t>(t * 16 + i);
      scaled[at] *= 1 + t % 5;
      reversed[static_cast<std::size_t>((399 - t) * 16 + i)] = rows[at];
      shifted[at] += 2;
    }
  }
  const TokenStatistics a = measure(scaled, 16, 3);
  EXPECT_NEAR(a.cos_mean, s.cos_mean, 1e-13);
  EXPECT_NEAR(a.contribution[3], s.contribution[3], 1e-13);
  EXPECT_GT(std::abs(a.rhobar - s.rhobar), 1e-3) << "a scale per token changes the moments";
  const TokenStatistics b = measure(reversed, 16, 3);
  EXPECT_NEAR(b.cos_mean, s.cos_mean, 1e-13);
  EXPECT_NEAR(b.contribution[5], s.contribution[5], 1e-13);
  EXPECT_NEAR(b.second_order, s.second_order, 1e-12);
  const TokenStatistics c = measure(shifted, 16, 3);
  EXPECT_NEAR(c.rhobar, s.rhobar, 1e-10);
  EXPECT_GT(c.beta, s.beta + 0.3);
}

TEST(TokenStatistics, PermutedTokensLoseTheirNeighboursOnly) {
  Process process = power_law(16, -0.5, 0.9);
  process.mean.assign(16, 0.2);
  const std::vector<double> rows = sample(process, 4000, 8);
  std::vector<double> mixed(rows.size());
  for (int t = 0; t < 4000; ++t) {
    std::copy(rows.begin() + t * 16, rows.begin() + t * 16 + 16,
              mixed.begin() + (t * 1237L + 5) % 4000 * 16);
  }
  const TokenStatistics s = measure(rows, 16, 1);
  const TokenStatistics m = measure(mixed, 16, 2);
  EXPECT_GT(s.cos_mean, 0.8);
  EXPECT_NEAR(m.cos_mean, s.cos_shuffled, 0.03);
  EXPECT_NEAR(m.cos_shuffled, s.cos_shuffled, 0.03);
  EXPECT_NEAR(m.beta, s.beta, 0.01);
  EXPECT_NEAR(m.rhobar, 0, 0.05);
}

TEST(TokenStatistics, ConcentrationAloneDoesNotMakeNeighboursAlike) {
  // specs/spectral.md 2.4: 128 modes i^-0.8, persistence 0.9 on ten modes and 0.05 elsewhere.
  const auto first_order = [](bool strongest, bool flat) {
    Process process = power_law(128, flat ? 0 : -0.8, 0.05);
    for (int i = 0; i < 10; ++i) {
      process.rho[static_cast<std::size_t>(strongest ? i : 127 - i)] = 0.9;
    }
    return measure(sample(process, 40000, 5), 128).first_order;
  };
  EXPECT_NEAR(first_order(true, false), 0.376, 0.02);
  EXPECT_NEAR(first_order(false, false), 0.071, 0.02);
  EXPECT_NEAR(first_order(true, true), 0.116, 0.02);
}

TEST(TokenStatistics, NegativeControlOneCommonPersistence) {
  // Concentrated or flat: with one persistence everywhere the prediction is that persistence.
  for (const double exponent : {-1.2, 0.0}) {
    const TokenStatistics s = measure(sample(power_law(64, exponent, 0.55), 20000, 9), 64);
    EXPECT_NEAR(s.first_order, 0.55, 0.02) << exponent;
    EXPECT_NEAR(s.cos_mean, 0.53, 0.03) << exponent;
  }
}

TEST(TokenStatistics, RankOneCosineIsTheArcsineLaw) {
  const double rho = 0.7;
  const TokenStatistics s = measure(sample({{1.0}, {rho}, {}}, 200000, 3), 1);
  EXPECT_NEAR(s.cos_mean, 2 / std::numbers::pi * std::asin(rho), 4 * 2 / std::sqrt(200000.0))
      << "far from 0.7";
}

TEST(TokenStatistics, IsotropicCosineIsTheHypergeometricLaw) {
  const int n = 6;
  const double rho = 0.8;
  double series = 0;  // 2F1(1/2, 1/2; (n+2)/2; rho^2)
  double term = 1;
  for (int k = 0; k < 200; ++k) {
    series += term;
    term *= (k + 0.5) * (k + 0.5) / ((n + 2) / 2.0 + k) / (k + 1) * rho * rho;
  }
  const double ratio = std::exp(std::lgamma((n + 1) / 2.0) - std::lgamma(n / 2.0));
  const double expected = 2.0 / n * ratio * ratio * rho * series;
  const TokenStatistics s = measure(sample(power_law(n, 0, rho), 60000, 13), n);
  EXPECT_NEAR(s.cos_mean, expected, 4 * 2 * s.cos_std / std::sqrt(60000.0));
  EXPECT_NEAR(s.second_order, expected, 0.02);
}

TEST(TokenStatistics, SquaredProductsOfStrangersGoAsOneOverTheParticipationRatio) {
  const Process process = power_law(32, -1, 0);
  double square = 0;
  double lambda = 0;
  for (const double value : process.lambda) {
    lambda += value;
    square += value * value;
  }
  const int tokens = 40000;
  const std::vector<double> rows = sample(process, tokens, 21);
  double products = 0;
  double energy = 0;
  for (int t = 0; t + 1 < tokens; t += 2) {
    double product = 0;
    for (int i = 0; i < 32; ++i) {
      const auto at = static_cast<std::size_t>(t * 32 + i);
      product += rows[at] * rows[at + 32];
      energy += rows[at] * rows[at] + rows[at + 32] * rows[at + 32];
    }
    products += product * product;
  }
  energy /= tokens;
  EXPECT_NEAR(products / (tokens / 2) / (energy * energy) / (square / (lambda * lambda)), 1, 0.1);
}

TEST(TokenStatistics, SecondOrderBeatsFirstOrderWithAMean) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    Process process = power_law(40, -0.3, 0);
    Gauss gauss(seed + 40);
    for (std::size_t i = 0; i < 40; ++i) {
      process.rho[i] = 0.6 * std::tanh(gauss());
      process.mean.push_back(0.15 * gauss());
    }
    const TokenStatistics s = measure(sample(process, 60000, 60 + seed), 40);
    EXPECT_NEAR(s.second_order, s.cos_mean, 0.006) << "specs/spectral.md 2.5, PR 8 and above";
    EXPECT_LT(std::abs(s.second_order - s.cos_mean), std::abs(s.first_order - s.cos_mean) + 0.004);
  }
}

TEST(TokenStatistics, RotationIsUndoneAndPredicted) {
  const int channels = 12;
  const std::vector<double> frequency = {1.0, 0.3, 0.05, 0.01};  // 8 of 12 channels turn
  const std::vector<double> before = sample(power_law(channels, -0.5, 0.8), 500, 2);
  std::vector<double> after = before;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> negative;
  for (int t = 0; t < 500; ++t) {
    positions.push_back(100 + t);
    negative.push_back(-100 - t);
  }
  rotate_back(after.data(), 500, channels, negative.data(), frequency, 1 / 1.25);
  EXPECT_NEAR(after[8], before[8], 1e-15) << "channels that do not turn";
  // By hand, token 0 pair (0, 4): angle 100.
  EXPECT_NEAR(after[0], 1.25 * (before[0] * std::cos(100.0) - before[4] * std::sin(100.0)), 1e-12);
  std::vector<double> restored = after;
  rotate_back(restored.data(), 500, channels, positions.data(), frequency, 1.25);
  for (std::size_t i = 0; i < restored.size(); ++i) {
    ASSERT_NEAR(restored[i], before[i], 1e-12);
  }
  std::vector<double> turned = before;  // factor 1: lengths stay
  rotate_back(turned.data(), 500, channels, negative.data(), frequency, 1);
  EXPECT_NEAR(rotated_first_order({before.data(), 500, channels}, frequency),
              measure(turned, channels).first_order, 1e-12)
      << "specs/spectral.md 2.8 is exact";
}

TEST(TokenStatistics, ShuffledPairsAreSeeded) {
  const std::vector<double> rows = sample(power_law(8, 0, 0.2), 200, 2);
  const TokenRows view{rows.data(), 200, 8};
  EXPECT_EQ(shuffled_cosine(view, 5), shuffled_cosine(view, 5));
  EXPECT_NE(shuffled_cosine(view, 5), shuffled_cosine(view, 6));
  EXPECT_TRUE(std::isnan(shuffled_cosine({rows.data(), 1, 8}, 5)));
}

}  // namespace
}  // namespace kvscope::spectral
