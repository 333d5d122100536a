#pragma once

#include <span>

namespace kvscope::spectral {

/// 1 + k / sum_{i<=k} ln(lambda_i / lambda_{k+1}) with k = n / 2, over descending eigenvalues. NaN
/// if lambda_{k+1} is 0 or n < 2.
double hill_exponent(std::span<const double> eigenvalues);

/// What the Hill exponent tends to for Gaussian matrices of aspect c = n / N <= 1.
double hill_null(double c);

/// Continuous power law of the eigenvalues above `x_min`: the maximum-likelihood exponent for each
/// candidate x_min, the candidate with the least Kolmogorov-Smirnov distance (Clauset et al. 2009;
/// as WeightWatcher 0.7.7 for 20 and more values). NaN without two values above `negligible`.
struct PowerLaw {
  double alpha = 0;
  double distance = 0;
  double x_min = 0;
  double sigma = 0;  ///< (alpha - 1) / sqrt(tail)
  int tail = 0;
};
/// `eigenvalues` descending; those at or below `negligible` do not enter, so with a `negligible`
/// proportional to the largest the fit does not depend on the scale.
PowerLaw fit_power_law(std::span<const double> eigenvalues, double negligible);

/// Median of the Marchenko-Pastur law with mean 1 and aspect c in (0, 1].
double bulk_median(double c);

/// Bulk of the spectrum of an n x `larger` matrix as noise of unknown variance plus a few spikes.
struct Bulk {
  double variance = 0;  ///< of an entry: median eigenvalue over the law's median
  double edge = 0;      ///< variance * (sqrt N + sqrt n)^2
  double spikes = 0;    ///< eigenvalues above the edge and three Tracy-Widom scales
  double rank = 0;      ///< singular values above the Gavish-Donoho threshold, arXiv:1305.5870
};
Bulk fit_bulk(std::span<const double> eigenvalues, int larger);

}  // namespace kvscope::spectral
