#pragma once

#include <cstdint>
#include <vector>

namespace kvscope::spectral {

/// Linear-interpolated quantile of the finite values; NaN if there is none.
double quantile(std::vector<double> values, double share);

/// Ranks from 0, ties share their mean rank.
std::vector<double> ranks(const std::vector<double>& values);

/// Pearson correlation; NaN if one side is constant or there are fewer than 2.
double correlation(const std::vector<double>& a, const std::vector<double>& b);
/// Spearman rank correlation of the pairs that are finite on both sides.
double rank_correlation(const std::vector<double>& a, const std::vector<double>& b);

struct Interval {
  double low = 0;
  double high = 0;
};
/// Wilson's 95 % interval of a share.
Interval wilson(int successes, int count);
/// Fisher's 95 % interval of a rank correlation (standard error 1.06 / sqrt(n - 3)).
Interval fisher(double correlation, int count);

/// Probability of at least `successes` of `count` fair coins.
double sign_test(int successes, int count);

/// Share of seeded permutations of `b` whose rank correlation with `a` is at least the observed
/// one, counting the observed itself: never 0.
double permutation_p(const std::vector<double>& a, const std::vector<double>& b, int permutations,
                     std::uint64_t seed);

}  // namespace kvscope::spectral
