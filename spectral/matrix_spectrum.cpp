#include "matrix_spectrum.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "noise_floor.h"

namespace kvscope::spectral {
namespace {

void fail(MatrixSpectrum& result, SpectrumStatus status, std::string message) {
  result.status = status;
  result.message = std::move(message);
}

/// Adds the time it lives to one of the three.
class Timed {
 public:
  explicit Timed(double& seconds) : seconds_(seconds) {}
  ~Timed() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Sum and sum of squares of the eigenvalues against trace and norm of the matrix.
bool agrees(const std::vector<double>& values, const Moments& sums) {
  double sum = 0;
  double square = 0;
  for (const double value : values) {
    sum += value;
    square += value * value;
  }
  return std::abs(sum - sums.trace) <= 1e-11 * std::abs(sums.trace) &&
         std::abs(square - sums.square) <= 1e-10 * sums.square;
}

/// Clips rounding below zero and undoes the scale. False if a value is too negative to be rounding.
bool finish(std::vector<double>& values, int exponent) {
  if (values.empty()) {
    return true;
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  const double rounding = static_cast<double>(values.size()) *
                          std::numeric_limits<double>::epsilon() * std::max(values.front(), 0.0);
  const bool sound = values.back() >= -rounding;
  for (double& value : values) {
    value = std::ldexp(std::max(value, 0.0), 2 * exponent);
  }
  return sound;
}

/// [W b] as floats: one more column.
ProjectionWeights augmented(const ProjectionWeights& weights) {
  ProjectionWeights wide = weights;
  wide.columns = weights.columns + 1;
  wide.values.resize(cells(wide.rows, wide.columns));
  for (int row = 0; row < weights.rows; ++row) {
    const auto from =
        weights.values.begin() + static_cast<std::ptrdiff_t>(cells(row, weights.columns));
    auto to = wide.values.begin() + static_cast<std::ptrdiff_t>(cells(row, wide.columns));
    to = std::copy(from, from + weights.columns, to);
    *to = static_cast<float>(weights.bias[static_cast<std::size_t>(row)]);
  }
  if (!wide.column_factor.empty()) {
    wide.column_factor.push_back(1);  // the coordinate of the bias is 1 already
  }
  return wide;
}

GramSide smaller_side(const WeightView& view) {
  return view.rows <= view.columns ? GramSide::rows : GramSide::columns;
}

class Decomposition {
 public:
  Decomposition(ProjectionWeights weights, const ProjectionLayout& layout,
                const SpectralOptions& options, const Solvers& solvers, MatrixSpectrum& result)
      : weights_(std::move(weights)),
        layout_(layout),
        options_(options),
        solver_(solvers.first),
        second_(solvers.second),
        result_(result) {}

  void run() {
    const WeightView view = weights_.view();
    const GramSide side = smaller_side(view);
    AlignedDoubles whole = timed_gram(view, side);
    const bool sliced = weights_.sliced(layout_);
    if (sliced && options_.heads) {
      run_heads(whole, side);
    }
    if (!weights_.bias.empty() && !options_.fast) {
      const ProjectionWeights wide = augmented(weights_);
      const WeightView wide_view = wide.view();
      solve(timed_gram(wide_view, smaller_side(wide_view)), wide_view, result_.with_bias,
            "the matrix with its bias");
    }
    if (options_.fast) {
      run_fast(whole, side);
    } else {
      solve(std::move(whole), view, result_.layer, "the matrix");
      result_.layer_metrics =
          measure(result_.layer, noise_floor(result_.storage_error, view.rows, view.columns), view);
    }
    if (!sliced && result_.status == SpectrumStatus::ok) {
      fail(
          result_, SpectrumStatus::bad_shape,
          fmt::format("{} x {} does not hold {} heads of {}: the layer was analysed, its heads not",
                      view.rows, view.columns, layout_.heads, layout_.head_dim));
    }
  }

 private:
  AlignedDoubles timed_gram(const WeightView& view, GramSide side) {
    const Timed timed(result_.seconds[0]);
    return gram(view, side);
  }

  /// The Gram matrix of a head is a diagonal block of the layer's, when that has the heads' side.
  AlignedDoubles head_gram(const AlignedDoubles& whole, GramSide side, int head) {
    const WeightView view = weights_.head(layout_, head);
    const GramSide heads_side = layout_.heads_are_rows ? GramSide::rows : GramSide::columns;
    if (side == heads_side && smaller_side(view) == heads_side) {
      const int n = side == GramSide::rows ? weights_.rows : weights_.columns;
      return diagonal_block(whole, n, head * layout_.head_dim, layout_.head_dim);
    }
    AlignedDoubles block = timed_gram(view, smaller_side(view));
    mirror(block, std::min(view.rows, view.columns));
    return block;
  }

  /// All heads have one shape, so their matrices go to the solver as one batch.
  void run_heads(const AlignedDoubles& whole, GramSide side) {
    const WeightView first = weights_.head(layout_, 0);
    const int n = std::min(first.rows, first.columns);
    AlignedDoubles all(options_.fast ? 0 : cells(n, n) * static_cast<std::size_t>(layout_.heads));
    for (int head = 0; head < layout_.heads; ++head) {
      const AlignedDoubles block = head_gram(whole, side, head);
      if (options_.fast) {
        const Timed timed(result_.seconds[1]);
        result_.heads_fast.push_back(fast_spectrum(block, n, weights_.exponent, options_.seed));
        continue;
      }
      std::copy(block.data(), block.data() + block.size(),
                all.data() + cells(n, n) * static_cast<std::size_t>(head));
      result_.vectors.emplace_back();
      if (options_.vectors && layout_.heads_are_rows && n == layout_.head_dim) {
        const EigenPairs pairs = symmetric_eigen(block, n);
        result_.vectors.back().assign(pairs.vectors.data(),
                                      pairs.vectors.data() + pairs.vectors.size());
      }
    }
    if (!options_.fast) {
      solve_heads(all, n);
    }
  }

  void solve_heads(const AlignedDoubles& all, int n) {
    std::vector<std::vector<double>> found;
    {
      const Timed timed(result_.seconds[1]);
      found = solver_.batch(all, n, layout_.heads);
    }
    for (int head = 0; head < layout_.heads; ++head) {
      const WeightView view = weights_.head(layout_, head);
      AlignedDoubles block(cells(n, n));
      const double* from = all.data() + cells(n, n) * static_cast<std::size_t>(head);
      std::copy(from, from + cells(n, n), block.data());
      std::vector<double> values = std::move(found[static_cast<std::size_t>(head)]);
      settle(values, moments(block, n), view, fmt::format("head {}", head));
      const double floor = noise_floor(result_.storage_error, view.rows, view.columns);
      result_.head_metrics.push_back(measure(values, floor, view));
      result_.blocks.push_back(degeneracy_blocks(values, floor, options_.gap_tolerance));
      result_.heads.push_back(std::move(values));
    }
  }

  SpectrumMetrics measure(const std::vector<double>& values, double floor, const WeightView& view) {
    const Timed timed(result_.seconds[2]);
    if (values.empty() || std::isnan(values.front())) {
      return missing_metrics();
    }
    return metrics_of(values, floor, options_.fits ? MetricSet::with_fits : MetricSet::core,
                      std::max(view.rows, view.columns));
  }

  void run_fast(AlignedDoubles& whole, GramSide side) {
    const int n = side == GramSide::rows ? weights_.rows : weights_.columns;
    const Timed timed(result_.seconds[1]);
    mirror(whole, n);
    result_.layer_fast = fast_spectrum(whole, n, weights_.exponent, options_.seed);
    if (options_.top > 0) {
      result_.top = randomised_singular_values(weights_.view(), options_.top, options_.seed);
    }
  }

  void solve(AlignedDoubles matrix, const WeightView& view, std::vector<double>& values,
             const std::string& what) {
    const int n = std::min(view.rows, view.columns);
    const Moments sums = moments(matrix, n);
    {
      const Timed timed(result_.seconds[1]);
      values = solver_.values(std::move(matrix), n);
    }
    settle(values, sums, view, what);
  }

  /// Checks eigenvalues of the Gram matrix of `view` against its moments, sorts and scales them. If
  /// they are missing or wrong Eigen tries once; after that they are NaN, and a status says so.
  void settle(std::vector<double>& values, const Moments& sums, const WeightView& view,
              const std::string& what) {
    const int n = std::min(view.rows, view.columns);
    if (values.empty() || !agrees(values, sums)) {
      AlignedDoubles again = timed_gram(view, smaller_side(view));
      const Timed timed(result_.seconds[1]);
      values = second_.values(std::move(again), n);
    }
    if (values.empty() || !agrees(values, sums)) {
      values.assign(static_cast<std::size_t>(n), std::numeric_limits<double>::quiet_NaN());
      fail(result_, SpectrumStatus::no_convergence, "no eigenvalue solver converged on " + what);
    } else if (!finish(values, weights_.exponent)) {
      fail(result_, SpectrumStatus::negative_eigenvalue,
           "an eigenvalue of " + what + " is negative beyond rounding");
    }
  }

  ProjectionWeights weights_;
  const ProjectionLayout& layout_;
  const SpectralOptions& options_;
  const EigenSolver& solver_;
  const EigenSolver& second_;
  MatrixSpectrum& result_;
};

}  // namespace

std::vector<int> degeneracy_blocks(const std::vector<double>& eigenvalues, double floor,
                                   double tolerance) {
  std::vector<int> blocks;
  for (std::size_t i = 0; i < eigenvalues.size(); ++i) {
    if (i == 0) {
      blocks.push_back(0);
      continue;
    }
    const double above = eigenvalues[i - 1];
    const bool close = !(above - eigenvalues[i] >= tolerance * above) || above == 0;
    const bool noise = above < floor * floor && eigenvalues[i] < floor * floor;
    blocks.push_back(blocks.back() + (close || noise ? 0 : 1));
  }
  return blocks;
}

MatrixSpectrum matrix_spectrum(const ModelFile& model, int layer, const ProjectionLayout& layout,
                               const SpectralOptions& options, const Solvers& solvers) {
  MatrixSpectrum result;
  ProjectionWeights weights = load_weights(model, layer, layout, options);
  result.status = weights.status;
  result.message = weights.message;
  result.rows = weights.rows;
  result.columns = weights.columns;
  result.storage_error = weights.storage_error;
  if (!weights.usable()) {
    return result;
  }
  const bool zero = result.status == SpectrumStatus::zero;
  result.status = SpectrumStatus::ok;
  Decomposition(std::move(weights), layout, options, solvers, result).run();
  if (zero && result.status == SpectrumStatus::ok) {
    result.status = SpectrumStatus::zero;
  }
  return result;
}

}  // namespace kvscope::spectral
