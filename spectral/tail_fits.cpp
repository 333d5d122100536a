#include "tail_fits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// Calls visit(x, mass) from the strongest eigenvalue down: points of the Marchenko-Pastur law of
/// mean 1. x = 1 + c + 2 sqrt(c) cos(theta) has density 2 sin^2(theta) / (pi x) in theta.
template <typename Visit>
void over_law(double c, Visit visit) {
  constexpr int points = 8192;
  constexpr double step = std::numbers::pi / points;
  for (int i = 0; i < points; ++i) {
    const double theta = (i + 0.5) * step;
    const double x = 1 + c + 2 * std::sqrt(c) * std::cos(theta);
    visit(x, 2 * std::sin(theta) * std::sin(theta) / (std::numbers::pi * x) * step);
  }
}

}  // namespace

double hill_exponent(std::span<const double> eigenvalues) {
  const std::size_t k = eigenvalues.size() / 2;
  if (k == 0 || !(eigenvalues[k] > 0)) {
    return nan;
  }
  double sum = 0;
  for (std::size_t i = 0; i < k; ++i) {
    sum += std::log(eigenvalues[i] / eigenvalues[k]);
  }
  return 1 + static_cast<double>(k) / sum;
}

double hill_null(double c) {
  const double median = bulk_median(c);
  double mass = 0;
  double sum = 0;
  over_law(c, [&](double x, double weight) {
    if (x > median) {
      mass += weight;
      sum += weight * std::log(x / median);
    }
  });
  return 1 + mass / sum;
}

PowerLaw fit_power_law(std::span<const double> eigenvalues, double negligible) {
  std::vector<double> x(eigenvalues.begin(), eigenvalues.end());
  std::erase_if(x, [&](double value) { return !(value > negligible); });
  std::reverse(x.begin(), x.end());
  const std::size_t n = x.size();
  std::vector<double> logs(n);
  std::transform(x.begin(), x.end(), logs.begin(), [](double value) { return std::log(value); });
  std::vector<double> above(n + 1, 0.0);  // sum of logs from i on
  for (std::size_t i = n; i-- > 0;) {
    above[i] = above[i + 1] + logs[i];
  }
  PowerLaw best{nan, nan, nan, nan, 0};
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i + 1 < n; ++i) {
    const auto tail = static_cast<double>(n - i);
    const double excess = above[i] - tail * logs[i];
    if (!(excess > 0)) {
      continue;  // every value of the tail is the same: no exponent
    }
    const double alpha = 1 + tail / excess;
    double distance = 0;
    for (std::size_t j = i; j < n && distance < least; ++j) {
      const double fitted = -std::expm1((1 - alpha) * (logs[j] - logs[i]));
      distance = std::max(distance, std::abs(fitted - static_cast<double>(j - i) / tail));
    }
    if (distance < least) {
      least = distance;
      best = {alpha, distance, x[i], (alpha - 1) / std::sqrt(tail), static_cast<int>(n - i)};
    }
  }
  return best;
}

double bulk_median(double c) {
  thread_local double last = nan;  // the matrices of a model have few shapes
  thread_local double last_median = nan;
  if (c == last) {
    return last_median;
  }
  double reached = 0;
  double before = 0;
  double median = nan;
  over_law(c, [&](double x, double weight) {
    reached += weight;
    if (std::isnan(median) && reached >= 0.5) {
      const double share = (0.5 - (reached - weight)) / weight;
      median = before + share * (x - before);
    }
    before = x;
  });
  last = c;
  last_median = median;
  return median;
}

Bulk fit_bulk(std::span<const double> eigenvalues, int larger) {
  const std::size_t count = eigenvalues.size();
  const auto n = static_cast<double>(count);
  const auto wide = static_cast<double>(larger);
  const double c = n / wide;
  const double median = (eigenvalues[(count - 1) / 2] + eigenvalues[count / 2]) / 2;
  Bulk bulk;
  bulk.variance = median / (wide * bulk_median(c));
  const double roots = std::sqrt(wide) + std::sqrt(n);
  bulk.edge = bulk.variance * roots * roots;
  const double scale = bulk.variance * roots * std::cbrt(1 / std::sqrt(wide) + 1 / std::sqrt(n));
  const double threshold = std::sqrt(
      (2 * (c + 1) + 8 * c / ((c + 1) + std::sqrt(c * c + 14 * c + 1))) * wide * bulk.variance);
  for (const double lambda : eigenvalues) {
    bulk.spikes += lambda > bulk.edge + 3 * scale ? 1 : 0;
    bulk.rank += std::sqrt(lambda) > threshold ? 1 : 0;
  }
  return bulk;
}

}  // namespace kvscope::spectral
