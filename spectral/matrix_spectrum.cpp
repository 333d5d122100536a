#include "matrix_spectrum.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "lapack.h"
#include "noise_floor.h"

namespace kvscope::spectral {
namespace {

constexpr std::int64_t largest_side = 32767;  // 32-bit LAPACK

std::size_t cells(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

bool fail(MatrixSpectrum& result, SpectrumStatus status, std::string message) {
  result.status = status;
  result.message = std::move(message);
  return false;
}

/// Shape and storage type; false when there is nothing to read.
bool describe(const ModelFile& model, int layer, const ProjectionLayout& layout,
              MatrixSpectrum& result) {
  if (!model.has(layout.weight, layer)) {
    return fail(result, SpectrumStatus::missing, "the layer has no such projection");
  }
  const auto [rows, columns] = model.weight_shape(layout.weight, layer);
  if (rows < 1 || columns < 1 || rows > largest_side || columns > largest_side) {
    return fail(result, SpectrumStatus::bad_shape,
                fmt::format("{} x {} is not within 1 to {}", rows, columns, largest_side));
  }
  result.rows = static_cast<int>(rows);
  result.columns = static_cast<int>(columns);
  return true;
}

bool read(const ModelFile& model, int layer, const ProjectionLayout& layout, MatrixSpectrum& result,
          std::vector<float>& weights) {
  weights.resize(cells(result.rows, result.columns));
  try {
    model.read(layout.weight, layer, std::span<float>(weights), 1);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) {
      throw;
    }
    return fail(result, SpectrumStatus::unsupported_dtype, error.message());
  }
  std::int64_t bad = 0;
  std::size_t first = 0;
  bool zero = true;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!std::isfinite(weights[i]) && bad++ == 0) {
      first = i;
    }
    zero = zero && weights[i] == 0;
  }
  if (bad > 0) {
    const auto width = static_cast<std::size_t>(result.columns);
    return fail(result, SpectrumStatus::nonfinite,
                fmt::format("{} entries are NaN or infinite, first at row {}, column {}", bad,
                            first / width, first % width));
  }
  if (zero) {
    fail(result, SpectrumStatus::zero, "every entry is 0");
  }
  return true;
}

/// Widens to double and scales by a power of two so that the largest magnitude lies in [0.5, 1).
/// Exact.
AlignedDoubles widen(const std::vector<float>& weights, int& exponent) {
  float largest = 0;
  for (const float weight : weights) {
    largest = std::max(largest, std::abs(weight));
  }
  exponent = 0;
  std::frexp(largest, &exponent);
  AlignedDoubles wide(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    wide[i] = std::ldexp(static_cast<double>(weights[i]), -exponent);
  }
  return wide;
}

/// Clips rounding below zero and undoes the scale. False if a value is too negative to be rounding.
bool finish(std::vector<double>& values, int exponent) {
  if (values.empty()) {
    return true;
  }
  const double rounding = static_cast<double>(values.size()) *
                          std::numeric_limits<double>::epsilon() * std::max(values.front(), 0.0);
  const bool sound = values.back() >= -rounding;
  for (double& value : values) {
    value = std::ldexp(std::max(value, 0.0), 2 * exponent);
  }
  return sound;
}

AlignedDoubles diagonal_block(const AlignedDoubles& matrix, int n, int first, int size) {
  AlignedDoubles block(cells(size, size));
  for (int row = 0; row < size; ++row) {
    const double* source = matrix.data() + cells(first + row, n) + static_cast<std::size_t>(first);
    std::copy(source, source + size, block.data() + cells(row, size));
  }
  return block;
}

class Decomposition {
 public:
  Decomposition(const AlignedDoubles& w, int exponent, const ProjectionLayout& layout,
                MatrixSpectrum& result)
      : w_(w), exponent_(exponent), layout_(layout), result_(result) {}

  void run() {
    const int rows = result_.rows;
    const int columns = result_.columns;
    const int head_axis = layout_.heads_are_rows ? rows : columns;
    const int other = layout_.heads_are_rows ? columns : rows;
    const bool sliced = head_axis == layout_.heads * layout_.head_dim;
    const GramSide head_side = layout_.heads_are_rows ? GramSide::rows : GramSide::columns;
    const GramSide other_side = layout_.heads_are_rows ? GramSide::columns : GramSide::rows;
    const bool use_head_side = head_axis <= other;
    const int n = std::min(rows, columns);
    const AlignedDoubles whole =
        gram(w_.data(), rows, columns, columns, use_head_side ? head_side : other_side);
    solve(whole, n, result_.layer, "the matrix");
    if (!sliced) {
      fail(
          result_, SpectrumStatus::bad_shape,
          fmt::format("{} x {} does not hold {} heads of {}: the layer was analysed, its heads not",
                      rows, columns, layout_.heads, layout_.head_dim));
      return;
    }
    result_.heads.resize(static_cast<std::size_t>(layout_.heads));
    const int head_n = std::min(layout_.head_dim, other);
    for (int head = 0; head < layout_.heads; ++head) {
      const int first = head * layout_.head_dim;
      // The Gram matrix of a head is a diagonal block of the layer's, when that has the heads'
      // side.
      const AlignedDoubles block = use_head_side && head_n == layout_.head_dim
                                       ? diagonal_block(whole, n, first, layout_.head_dim)
                                       : head_gram(first, other);
      solve(block, head_n, result_.heads[static_cast<std::size_t>(head)],
            fmt::format("head {}", head));
    }
  }

 private:
  AlignedDoubles head_gram(int first, int other) const {
    const bool by_head = layout_.head_dim <= other;
    if (layout_.heads_are_rows) {
      return gram(w_.data() + cells(first, result_.columns), layout_.head_dim, result_.columns,
                  result_.columns, by_head ? GramSide::rows : GramSide::columns);
    }
    return gram(w_.data() + first, result_.rows, layout_.head_dim, result_.columns,
                by_head ? GramSide::columns : GramSide::rows);
  }

  void solve(const AlignedDoubles& matrix, int n, std::vector<double>& values,
             const std::string& what) {
    values = symmetric_eigenvalues(matrix, n);
    if (values.empty()) {
      values.assign(static_cast<std::size_t>(n), std::numeric_limits<double>::quiet_NaN());
      fail(result_, SpectrumStatus::no_convergence, "no eigenvalue solver converged on " + what);
    } else if (!finish(values, exponent_)) {
      fail(result_, SpectrumStatus::negative_eigenvalue,
           "an eigenvalue of " + what + " is negative beyond rounding");
    }
  }

  const AlignedDoubles& w_;
  int exponent_;
  const ProjectionLayout& layout_;
  MatrixSpectrum& result_;
};

}  // namespace

MatrixSpectrum matrix_spectrum(const ModelFile& model, int layer, const ProjectionLayout& layout) {
  MatrixSpectrum result;
  std::vector<float> weights;
  if (!describe(model, layer, layout, result) || !read(model, layer, layout, result, weights)) {
    return result;
  }
  const bool zero = result.status == SpectrumStatus::zero;
  result.storage_error =
      storage_error(weights, result.columns, model.weight_dtype(layout.weight, layer));
  int exponent = 0;
  const AlignedDoubles wide = widen(weights, exponent);
  weights = {};
  result.status = SpectrumStatus::ok;
  Decomposition(wide, exponent, layout, result).run();
  if (zero && result.status == SpectrumStatus::ok) {
    result.status = SpectrumStatus::zero;
  }
  return result;
}

}  // namespace kvscope::spectral
