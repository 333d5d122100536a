#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "buffer.h"

namespace kvscope::spectral {

inline constexpr int histogram_bins = 201;
inline constexpr std::array<double, 5> cosine_quantiles = {0.05, 0.25, 0.5, 0.75, 0.95};

/// Rows y_t, [tokens, channels] row-major, of one head (or of all heads of a layer side by side),
/// neighbours in time one after another.
struct TokenRows {
  const double* data = nullptr;
  int tokens = 0;
  int channels = 0;
};

/// What adjacent tokens of one head show. All moments are over the same pairs, with the mean of the
/// two marginals, so that the identities of specs/spectral.md 7.3 are exact.
struct TokenStatistics {
  int pairs = 0;    ///< that entered: both rows finite and not zero
  int dropped = 0;  ///< pairs left out
  double cos_mean = 0;
  double cos_std = 0;
  std::array<double, 5> quantiles{};
  std::array<double, histogram_bins> histogram{};  ///< counts on [-1, 1]
  double cos_shuffled = 0;                         ///< mean over as many random pairs
  double beta = 0;                                 ///< |mu|^2 / (|mu|^2 + tr C)
  double rhobar = 0;                               ///< tr Gamma / tr C
  double first_order = 0;                          ///< beta + (1 - beta) rhobar
  double second_order = 0;                         ///< eq. (3)
  std::array<double, 5> traces{};    ///< tr C^2, tr C Gs, |Gamma|_F^2, mu C mu, mu Gs mu; over A^2
  double mean_square = 0;            ///< A = E |y|^2
  double neighbour_rank_corr = 0;    ///< AsymKV's: cos(k_i, k_j) against cos(k_i, k_{j+1})
  std::vector<double> contribution;  ///< c_i, sums to cos_mean
  std::vector<double> energy;        ///< e_i, sums to 1
  std::vector<double> persistence;   ///< rho_i
  std::vector<double> mean_square_share;   ///< (E z_i)^2 / A
  std::vector<double> output_eigenvalues;  ///< of E y y^T, descending, sum to A
};

/// All statistics of one head; `basis` is column-major [channels, channels], orthonormal.
TokenStatistics token_statistics(const TokenRows& rows, const AlignedDoubles& basis,
                                 std::uint64_t seed);

/// Mean adjacent cosine and mode contributions alone, in a basis of `modes` orthonormal columns.
TokenStatistics mode_statistics(const TokenRows& rows, const AlignedDoubles& basis, int modes);

/// Mean cosine of as many seeded random pairs of different rows as there are adjacent ones.
double shuffled_cosine(const TokenRows& rows, std::uint64_t seed);

/// Mean cosine of y_t and y_{t+lag} over the pairs where both are finite and not zero; NaN if there
/// are none.
double lagged_cosine(const TokenRows& rows, int lag);

/// Rotates row t of [tokens, channels] by -positions[t]: undoes RoPE. Pairs are half-split over the
/// first 2 * frequency.size() channels; `factor` is the attention factor that scaled them.
void rotate_back(double* rows, int tokens, int channels, const std::int32_t* positions,
                 const std::vector<double>& frequency, double factor);

/// First-order cosine after RoPE from rows before it (specs/spectral.md 2.8): pair energies,
/// in-phase and quadrature lag-1 moments.
double rotated_first_order(const TokenRows& rows, const std::vector<double>& frequency);

}  // namespace kvscope::spectral
