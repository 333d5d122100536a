#include "token_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lapack.h"
#include "random.h"
#include "statistics.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

double dot(const double* a, const double* b, int n) {
  return std::inner_product(a, a + n, b, 0.0);
}

const double* row(const TokenRows& rows, int token) {
  return rows.data + cells(token, rows.channels);
}

/// Norm of each row; NaN for one that is zero or not finite.
std::vector<double> norms(const TokenRows& rows) {
  std::vector<double> result;
  for (int t = 0; t < rows.tokens; ++t) {
    const double norm = std::sqrt(dot(row(rows, t), row(rows, t), rows.channels));
    result.push_back(std::isfinite(norm) && norm > 0 ? norm : nan);
  }
  return result;
}

/// Usable pairs as two tight matrices of rows: y_t and y_{t+1}.
struct Pairs {
  AlignedDoubles first;
  AlignedDoubles second;
  std::vector<double> norm;  ///< |y_t| |y_{t+1}|
  std::vector<double> cosine;
  int count = 0;
  int dropped = 0;
};

Pairs pairs_of(const TokenRows& rows) {
  const std::vector<double> norm = norms(rows);
  Pairs pairs;
  const int most = std::max(rows.tokens - 1, 0);
  pairs.first = AlignedDoubles(cells(most, rows.channels));
  pairs.second = AlignedDoubles(cells(most, rows.channels));
  for (int t = 0; t < most; ++t) {
    const auto at = static_cast<std::size_t>(t);
    if (std::isnan(norm[at]) || std::isnan(norm[at + 1])) {
      ++pairs.dropped;
      continue;
    }
    std::copy(row(rows, t), row(rows, t + 1),
              pairs.first.data() + cells(pairs.count, rows.channels));
    std::copy(row(rows, t + 1), row(rows, t + 1) + rows.channels,
              pairs.second.data() + cells(pairs.count, rows.channels));
    pairs.norm.push_back(norm[at] * norm[at + 1]);
    pairs.cosine.push_back(dot(row(rows, t), row(rows, t + 1), rows.channels) / pairs.norm.back());
    ++pairs.count;
  }
  return pairs;
}

void describe_cosines(const Pairs& pairs, TokenStatistics& s) {
  const double n = pairs.count;
  s.cos_mean = std::accumulate(pairs.cosine.begin(), pairs.cosine.end(), 0.0) / n;
  double square = 0;
  for (const double value : pairs.cosine) {
    square += (value - s.cos_mean) * (value - s.cos_mean);
    const double place = (value + 1) / 2 * histogram_bins;
    s.histogram[static_cast<std::size_t>(std::clamp(place, 0.0, histogram_bins - 1.0))] += 1;
  }
  s.cos_std = pairs.count > 1 ? std::sqrt(square / (n - 1)) : nan;
  for (std::size_t i = 0; i < cosine_quantiles.size(); ++i) {
    s.quantiles[i] = quantile(pairs.cosine, cosine_quantiles[i]);
  }
}

/// Z = Y U for both sides of the pairs, then sums over time.
void describe_modes(const Pairs& pairs, int channels, const AlignedDoubles& basis, int modes,
                    TokenStatistics& s) {
  AlignedDoubles z(cells(pairs.count, modes));
  AlignedDoubles next(cells(pairs.count, modes));
  // Row-major [pairs, modes] is column-major [modes, pairs]: U^T Y^T.
  multiply_add({true, false, modes, pairs.count, channels, basis.data(), channels,
                pairs.first.data(), channels, z.data(), modes});
  multiply_add({true, false, modes, pairs.count, channels, basis.data(), channels,
                pairs.second.data(), channels, next.data(), modes});
  const auto width = static_cast<std::size_t>(modes);
  s.contribution.assign(width, 0);
  std::vector<double> square(width, 0.0);
  std::vector<double> product(width, 0.0);
  std::vector<double> mean(width, 0.0);
  for (int t = 0; t < pairs.count; ++t) {
    const double* a = z.data() + cells(t, modes);
    const double* b = next.data() + cells(t, modes);
    const double share = 1 / (pairs.norm[static_cast<std::size_t>(t)] * pairs.count);
    for (std::size_t i = 0; i < width; ++i) {
      s.contribution[i] += a[i] * b[i] * share;
      product[i] += a[i] * b[i];
      square[i] += (a[i] * a[i] + b[i] * b[i]) / 2;
      mean[i] += (a[i] + b[i]) / 2;
    }
  }
  const double total = std::accumulate(square.begin(), square.end(), 0.0);
  const double n = pairs.count;
  for (std::size_t i = 0; i < width; ++i) {
    s.energy.push_back(square[i] / total);
    s.persistence.push_back(product[i] / square[i]);
    s.mean_square_share.push_back(mean[i] / n * (mean[i] / n) / (total / n));
  }
}

/// beta, rhobar and the two predictions from the full second moments.
void describe_moments(const Pairs& pairs, int channels, TokenStatistics& s) {
  const auto width = static_cast<std::size_t>(channels);
  const double n = pairs.count;
  AlignedDoubles c(cells(channels, channels));
  AlignedDoubles gamma(cells(channels, channels));
  const auto add = [&](const AlignedDoubles& a, const AlignedDoubles& b, AlignedDoubles& sum) {
    multiply_add({false, true, channels, channels, pairs.count, a.data(), channels, b.data(),
                  channels, sum.data(), channels});
  };
  add(pairs.first, pairs.first, c);
  add(pairs.second, pairs.second, c);
  add(pairs.first, pairs.second, gamma);
  std::vector<double> mu(width, 0.0);
  for (int t = 0; t < pairs.count; ++t) {
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t at = cells(t, channels) + i;
      mu[i] += (pairs.first[at] + pairs.second[at]) / (2 * n);
    }
  }
  AlignedDoubles second_moment(cells(channels, channels));
  for (std::size_t i = 0; i < width * width; ++i) {
    second_moment[i] = c[i] / (2 * n);
  }
  s.output_eigenvalues = symmetric_eigen(second_moment, channels).values;
  s.output_eigenvalues.resize(width, nan);  // empty where it does not converge
  double mean_square = 0;
  double trace = 0;
  double lagged = 0;
  double square = 0;
  double across = 0;
  double gamma_square = 0;
  double mean_c = 0;
  double mean_g = 0;
  for (std::size_t i = 0; i < width; ++i) {
    mean_square += mu[i] * mu[i];
    for (std::size_t j = 0; j < width; ++j) {
      const double cov = c[j * width + i] / (2 * n) - mu[i] * mu[j];
      const double lag = gamma[j * width + i] / n - mu[i] * mu[j];
      const double symmetric = (lag + gamma[i * width + j] / n - mu[i] * mu[j]) / 2;
      trace += i == j ? cov : 0;
      lagged += i == j ? lag : 0;
      square += cov * cov;
      across += cov * symmetric;
      gamma_square += lag * lag;
      mean_c += mu[i] * cov * mu[j];
      mean_g += mu[i] * symmetric * mu[j];
    }
  }
  const double a = mean_square + trace;
  s.mean_square = a;
  s.beta = mean_square / a;
  s.rhobar = trace > 0 ? lagged / trace : nan;
  s.first_order = (mean_square + lagged) / a;
  s.traces = {square / (a * a), across / (a * a), gamma_square / (a * a), mean_c / (a * a),
              mean_g / (a * a)};
  const double va = 2 * s.traces[0] + 4 * s.traces[3];
  const double vab = 2 * s.traces[2] + 4 * s.traces[4];
  const double vna = 2 * s.traces[1] + 2 * s.traces[3] + 2 * s.traces[4];
  s.second_order = s.first_order * (1 + 3 * va / 4 + vab / 4) - vna;
}

/// Rank correlation of cos(y_i, y_j) and cos(y_i, y_{j+1}) over 100 seeded pairs, the first row
/// left out, as AsymKV measures it (the ranks are over all pairs).
double neighbour_correlation(const TokenRows& rows, std::uint64_t seed) {
  constexpr int wanted = 100;
  if (rows.tokens < 4) {
    return nan;
  }
  const std::vector<double> norm = norms(rows);
  Random random(seed);
  std::vector<double> here;
  std::vector<double> next;
  const auto cosine = [&](int a, int b) {
    return dot(row(rows, a), row(rows, b), rows.channels) /
           (norm[static_cast<std::size_t>(a)] * norm[static_cast<std::size_t>(b)]);
  };
  for (int i = 0; i < wanted; ++i) {
    const int a = 1 + static_cast<int>(random.below(static_cast<std::uint64_t>(rows.tokens) - 2));
    const int b = 1 + static_cast<int>(random.below(static_cast<std::uint64_t>(rows.tokens) - 2));
    here.push_back(cosine(a, b));
    next.push_back(cosine(a, b + 1));
  }
  return rank_correlation(here, next);
}

TokenStatistics nothing(int modes, int dropped) {
  TokenStatistics s;
  s.dropped = dropped;
  s.quantiles.fill(nan);
  s.traces.fill(nan);
  for (double* value : {&s.cos_mean, &s.cos_std, &s.cos_shuffled, &s.beta, &s.rhobar,
                        &s.first_order, &s.second_order, &s.mean_square, &s.neighbour_rank_corr}) {
    *value = nan;
  }
  for (auto* list :
       {&s.contribution, &s.energy, &s.persistence, &s.mean_square_share, &s.output_eigenvalues}) {
    list->assign(static_cast<std::size_t>(modes), nan);
  }
  return s;
}

}  // namespace

double shuffled_cosine(const TokenRows& rows, std::uint64_t seed) {
  const std::vector<double> norm = norms(rows);
  std::vector<int> usable;
  for (int t = 0; t < rows.tokens; ++t) {
    if (!std::isnan(norm[static_cast<std::size_t>(t)])) {
      usable.push_back(t);
    }
  }
  const std::size_t count = usable.size();
  if (count < 2) {
    return nan;
  }
  Random random(seed);
  double sum = 0;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    const std::size_t a = random.below(count);
    const std::size_t b = (a + 1 + random.below(count - 1)) % count;
    sum += dot(row(rows, usable[a]), row(rows, usable[b]), rows.channels) /
           (norm[static_cast<std::size_t>(usable[a])] * norm[static_cast<std::size_t>(usable[b])]);
  }
  return sum / static_cast<double>(count - 1);
}

TokenStatistics token_statistics(const TokenRows& rows, const AlignedDoubles& basis,
                                 std::uint64_t seed) {
  const Pairs pairs = pairs_of(rows);
  if (pairs.count == 0) {
    return nothing(rows.channels, pairs.dropped);
  }
  TokenStatistics s;
  s.pairs = pairs.count;
  s.dropped = pairs.dropped;
  describe_cosines(pairs, s);
  describe_modes(pairs, rows.channels, basis, rows.channels, s);
  describe_moments(pairs, rows.channels, s);
  s.cos_shuffled = shuffled_cosine(rows, seed);
  s.neighbour_rank_corr = neighbour_correlation(rows, seed);
  return s;
}

TokenStatistics mode_statistics(const TokenRows& rows, const AlignedDoubles& basis, int modes) {
  const Pairs pairs = pairs_of(rows);
  if (pairs.count == 0) {
    return nothing(modes, pairs.dropped);
  }
  TokenStatistics s;
  s.pairs = pairs.count;
  s.dropped = pairs.dropped;
  describe_cosines(pairs, s);
  if (modes > 0) {
    describe_modes(pairs, rows.channels, basis, modes, s);
  }
  return s;
}

double lagged_cosine(const TokenRows& rows, int lag) {
  const std::vector<double> norm = norms(rows);
  double sum = 0;
  int pairs = 0;
  for (int t = 0; t + lag < rows.tokens; ++t) {
    const double product =
        norm[static_cast<std::size_t>(t)] * norm[static_cast<std::size_t>(t + lag)];
    if (!std::isnan(product)) {
      sum += dot(row(rows, t), row(rows, t + lag), rows.channels) / product;
      ++pairs;
    }
  }
  return pairs > 0 ? sum / pairs : nan;
}

void rotate_back(double* rows, int tokens, int channels, const std::int32_t* positions,
                 const std::vector<double>& frequency, double factor) {
  const std::size_t half = frequency.size();
  for (int t = 0; t < tokens; ++t) {
    double* y = rows + cells(t, channels);
    for (std::size_t j = 0; j < half; ++j) {
      const double angle = frequency[j] * positions[t];
      const double cos = std::cos(angle) / factor;
      const double sin = std::sin(angle) / factor;
      const double a = y[j];
      const double b = y[j + half];
      y[j] = a * cos + b * sin;
      y[j + half] = b * cos - a * sin;
    }
  }
}

double rotated_first_order(const TokenRows& rows, const std::vector<double>& frequency) {
  const Pairs pairs = pairs_of(rows);
  const std::size_t half = frequency.size();
  const auto width = static_cast<std::size_t>(rows.channels);
  double energy = 0;
  double product = 0;
  for (int t = 0; t < pairs.count; ++t) {
    const double* a = pairs.first.data() + cells(t, rows.channels);
    const double* b = pairs.second.data() + cells(t, rows.channels);
    energy += (dot(a, a, rows.channels) + dot(b, b, rows.channels)) / 2;
    for (std::size_t j = 0; j < half; ++j) {
      // The second row turns by one step more than the first.
      const double in_phase = a[j] * b[j] + a[j + half] * b[j + half];
      const double quadrature = a[j + half] * b[j] - a[j] * b[j + half];
      product += in_phase * std::cos(frequency[j]) + quadrature * std::sin(frequency[j]);
    }
    for (std::size_t channel = 2 * half; channel < width; ++channel) {
      product += a[channel] * b[channel];
    }
  }
  return pairs.count > 0 ? product / energy : nan;
}

}  // namespace kvscope::spectral
