#include "fast.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lapack.h"
#include "random.h"

namespace kvscope::spectral {
namespace {

constexpr int lanczos_steps = 30;
constexpr double lanczos_tolerance = 1e-6;
constexpr int spare_directions = 10;
constexpr int power_iterations = 2;

double dot(const double* a, const double* b, int n) {
  return std::inner_product(a, a + n, b, 0.0);
}

/// Largest eigenpair of the symmetric tridiagonal matrix of Lanczos: its value, and the last
/// component of its unit vector.
struct Ritz {
  double value = 0;
  double last = 0;
};
Ritz largest_ritz(const std::vector<double>& alpha, const std::vector<double>& beta) {
  const int k = static_cast<int>(alpha.size());
  AlignedDoubles t(cells(k, k));
  for (int i = 0; i < k; ++i) {
    t[cells(i, k) + static_cast<std::size_t>(i)] = alpha[static_cast<std::size_t>(i)];
    if (i + 1 < k) {
      t[cells(i, k) + static_cast<std::size_t>(i) + 1] = beta[static_cast<std::size_t>(i)];
      t[cells(i + 1, k) + static_cast<std::size_t>(i)] = beta[static_cast<std::size_t>(i)];
    }
  }
  const EigenPairs pairs = symmetric_eigen(t, k);
  return pairs.values.empty()
             ? Ritz{}
             : Ritz{pairs.values[0], pairs.vectors[static_cast<std::size_t>(k) - 1]};
}

/// Makes the columns of a column-major [rows, columns] matrix orthonormal, twice over
/// (Gram-Schmidt).
void orthonormalise(AlignedDoubles& q, int rows, int columns) {
  for (int column = 0; column < columns; ++column) {
    double* current = q.data() + cells(column, rows);
    for (int pass = 0; pass < 2; ++pass) {
      for (int before = 0; before < column; ++before) {
        const double* other = q.data() + cells(before, rows);
        const double share = dot(other, current, rows);
        for (int i = 0; i < rows; ++i) {
          current[i] -= share * other[i];
        }
      }
    }
    const double norm = std::sqrt(dot(current, current, rows));
    std::transform(current, current + rows, current,
                   [norm](double value) { return norm > 0 ? value / norm : 0.0; });
  }
}

}  // namespace

FastSpectrum fast_spectrum(const AlignedDoubles& matrix, int n, int exponent, std::uint64_t seed) {
  const Moments sums = moments(matrix, n);
  FastSpectrum fast;
  fast.trace = std::ldexp(sums.trace, 2 * exponent);
  fast.square = std::ldexp(sums.square, 4 * exponent);
  const int most = std::min(lanczos_steps, n);
  AlignedDoubles basis(cells(most + 1, n));
  Random random(seed);
  std::generate(basis.data(), basis.data() + n, [&] { return random.normal(); });
  orthonormalise(basis, n, 1);
  std::vector<double> alpha;
  std::vector<double> beta;
  Ritz ritz;
  double residual = 0;
  for (int step = 0; step < most; ++step) {
    const double* v = basis.data() + cells(step, n);
    double* next = basis.data() + cells(step + 1, n);
    std::fill(next, next + n, 0.0);
    multiply_add({false, false, n, 1, n, matrix.data(), n, v, n, next, n});
    alpha.push_back(dot(v, next, n));
    for (int pass = 0; pass < 2; ++pass) {
      for (int before = 0; before <= step; ++before) {
        const double* other = basis.data() + cells(before, n);
        const double share = dot(other, next, n);
        for (int i = 0; i < n; ++i) {
          next[i] -= share * other[i];
        }
      }
    }
    const double norm = std::sqrt(dot(next, next, n));
    ritz = largest_ritz(alpha, beta);
    residual = norm * std::abs(ritz.last);
    if (residual <= lanczos_tolerance * ritz.value) {
      break;
    }
    beta.push_back(norm);
    std::transform(next, next + n, next, [norm](double value) { return value / norm; });
  }
  fast.largest = std::ldexp(ritz.value, 2 * exponent);
  fast.bound = std::ldexp(residual, 2 * exponent);
  return fast;
}

std::vector<double> randomised_singular_values(const WeightView& w, int count, std::uint64_t seed) {
  const int width = std::min(count + spare_directions, std::min(w.rows, w.columns));
  // Row-major W is the column-major W^T.
  AlignedDoubles wide(cells(w.rows, w.columns));
  widen(w, 0, w.rows, 0, w.columns, wide.data());
  AlignedDoubles range(cells(w.rows, width));
  AlignedDoubles domain(cells(w.columns, width));
  Random random(seed);
  std::generate(domain.data(), domain.data() + domain.size(), [&] { return random.normal(); });
  const auto forward = [&] {
    std::fill(range.data(), range.data() + range.size(), 0.0);
    multiply_add({true, false, w.rows, width, w.columns, wide.data(), w.columns, domain.data(),
                  w.columns, range.data(), w.rows});
  };
  const auto backward = [&] {
    std::fill(domain.data(), domain.data() + domain.size(), 0.0);
    multiply_add({false, false, w.columns, width, w.rows, wide.data(), w.columns, range.data(),
                  w.rows, domain.data(), w.columns});
  };
  forward();
  for (int iteration = 0; iteration < power_iterations; ++iteration) {
    orthonormalise(range, w.rows, width);
    backward();
    orthonormalise(domain, w.columns, width);
    forward();
  }
  orthonormalise(range, w.rows, width);
  backward();  // (Q^T W)^T: its singular values are the answer
  std::vector<double> values = singular_values(domain, w.columns, width);
  values.resize(std::min(values.size(), static_cast<std::size_t>(count)));
  for (double& value : values) {
    value = std::ldexp(value, w.exponent);
  }
  return values;
}

}  // namespace kvscope::spectral
