#include "statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "random.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double z95 = 1.959963984540054;

/// Ranks of the pairs that are finite on both sides.
std::pair<std::vector<double>, std::vector<double>> paired_ranks(const std::vector<double>& a,
                                                                 const std::vector<double>& b) {
  std::vector<double> left;
  std::vector<double> right;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (std::isfinite(a[i]) && std::isfinite(b[i])) {
      left.push_back(a[i]);
      right.push_back(b[i]);
    }
  }
  return {ranks(left), ranks(right)};
}

}  // namespace

double quantile(std::vector<double> values, double share) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) {
    return nan;
  }
  std::sort(values.begin(), values.end());
  const double at = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t x, std::size_t y) { return values[x] < values[y]; });
  std::vector<double> result(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first + 1;
    while (last < order.size() && values[order[last]] == values[order[first]]) {
      ++last;
    }
    const double mean = static_cast<double>(first + last - 1) / 2;
    for (std::size_t i = first; i < last; ++i) {
      result[order[i]] = mean;
    }
    first = last;
  }
  return result;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0;
  double aa = 0;
  double bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : nan;
}

double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto [left, right] = paired_ranks(a, b);
  return correlation(left, right);
}

Interval wilson(int successes, int count) {
  if (count == 0) {
    return {nan, nan};
  }
  const double n = count;
  const double share = successes / n;
  const double square = z95 * z95;
  const double centre = (share + square / (2 * n)) / (1 + square / n);
  const double half =
      z95 / (1 + square / n) * std::sqrt(share * (1 - share) / n + square / (4 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

Interval fisher(double correlation, int count) {
  if (count < 4 || !(std::abs(correlation) <= 1)) {
    return {nan, nan};
  }
  const double z = std::atanh(correlation);
  const double half = z95 * 1.06 / std::sqrt(count - 3.0);
  return {std::tanh(z - half), std::tanh(z + half)};
}

double sign_test(int successes, int count) {
  double sum = 0;
  for (int k = successes; k <= count; ++k) {
    sum += std::exp(std::lgamma(count + 1.0) - std::lgamma(k + 1.0) - std::lgamma(count - k + 1.0) -
                    count * std::log(2.0));
  }
  return count == 0 ? 1.0 : std::min(1.0, sum);
}

double permutation_p(const std::vector<double>& a, const std::vector<double>& b, int permutations,
                     std::uint64_t seed) {
  auto [left, right] = paired_ranks(a, b);
  const double observed = correlation(left, right);
  if (std::isnan(observed)) {
    return nan;
  }
  // Only the sum of products changes under a permutation.
  const auto product = [&] {
    return std::inner_product(left.begin(), left.end(), right.begin(), 0.0);
  };
  const double reached = product() * (1 - 1e-12);
  Random random(seed);
  int as_large = 1;
  for (int i = 0; i < permutations; ++i) {
    for (std::size_t j = right.size(); j > 1; --j) {
      std::swap(right[j - 1], right[random.below(j)]);
    }
    as_large += product() >= reached ? 1 : 0;
  }
  return static_cast<double>(as_large) / (permutations + 1);
}

}  // namespace kvscope::spectral
