#include "gram.h"

#include <algorithm>
#include <cmath>

#include "lapack.h"

namespace kvscope::spectral {
namespace {

constexpr std::size_t panel_doubles = std::size_t{2} << 20;  // 16 MiB: an eighth of 4096 x 4096
constexpr int block = 512;   // columns of the result at a time: wide products run fastest
constexpr int narrow = 128;  // on the diagonal, so that little of what lies above is computed

/// Adds P P^T (`columns` long rows) or P^T P of a tight row-major panel to the lower triangle.
void add_panel(const double* panel, int rows, int columns, GramSide side, double* out) {
  const int n = side == GramSide::rows ? rows : columns;
  const int k = side == GramSide::rows ? columns : rows;
  const auto add = [&](int row, int height, int column, int width) {
    double* c = out + cells(column, n) + row;
    if (side == GramSide::rows) {
      multiply_add({true, false, height, width, k, panel + cells(row, columns), columns,
                    panel + cells(column, columns), columns, c, n});
    } else {
      multiply_add(
          {false, true, height, width, k, panel + row, columns, panel + column, columns, c, n});
    }
  };
  for (int first = 0; first < n; first += block) {
    const int last = std::min(first + block, n);
    for (int column = first; column < last; column += narrow) {
      add(column, last - column, column, std::min(narrow, last - column));
    }
    if (last < n) {
      add(last, n - last, first, last - first);
    }
  }
}

/// What a column block computes above the diagonal is not part of the answer.
void clear_above(AlignedDoubles& matrix, int n) {
  for (int column = 0; column < n; ++column) {
    const int first = column / narrow * narrow;
    std::fill(matrix.data() + cells(column, n) + first, matrix.data() + cells(column, n) + column,
              0.0);
  }
}

}  // namespace

WeightView WeightView::row_block(int first, int count) const {
  WeightView view = *this;
  view.data += first * stride;
  view.rows = count;
  view.row_factor = row_factor == nullptr ? nullptr : row_factor + first;
  return view;
}

WeightView WeightView::column_block(int first, int count) const {
  WeightView view = *this;
  view.data += first;
  view.columns = count;
  view.column_factor = column_factor == nullptr ? nullptr : column_factor + first;
  return view;
}

void widen(const WeightView& w, int first_row, int rows, int first_column, int columns,
           double* out) {
  const double scale = std::ldexp(1.0, -w.exponent);  // a float's exponent: always a normal double
  for (int row = 0; row < rows; ++row) {
    const float* from = w.data + (first_row + row) * w.stride + first_column;
    double* to = out + cells(row, columns);
    const double factor = w.row_factor == nullptr ? scale : scale * w.row_factor[first_row + row];
    for (int column = 0; column < columns; ++column) {
      to[column] = static_cast<double>(from[column]) * factor;
    }
    if (w.column_factor != nullptr) {
      const double* factors = w.column_factor + first_column;
      for (int column = 0; column < columns; ++column) {
        to[column] *= factors[column];
      }
    }
  }
}

AlignedDoubles gram(const WeightView& w, GramSide side) {
  const int n = side == GramSide::rows ? w.rows : w.columns;
  const int k = side == GramSide::rows ? w.columns : w.rows;
  AlignedDoubles result(cells(n, n));
  const int width = static_cast<int>(
      std::clamp<std::size_t>(panel_doubles / static_cast<std::size_t>(n), 64, 1 << 20));
  AlignedDoubles panel(cells(n, std::min(width, k)));
  for (int first = 0; first < k; first += width) {
    const int size = std::min(width, k - first);
    if (side == GramSide::rows) {
      widen(w, 0, n, first, size, panel.data());
      add_panel(panel.data(), n, size, side, result.data());
    } else {
      widen(w, first, size, 0, n, panel.data());
      add_panel(panel.data(), size, n, side, result.data());
    }
  }
  clear_above(result, n);
  return result;
}

AlignedDoubles cross_gram(const WeightView& a, const WeightView& b) {
  AlignedDoubles left(cells(a.rows, a.columns));
  AlignedDoubles right(cells(b.rows, b.columns));
  widen(a, 0, a.rows, 0, a.columns, left.data());
  widen(b, 0, b.rows, 0, b.columns, right.data());
  AlignedDoubles result(cells(a.rows, b.rows));
  multiply_add({true, false, a.rows, b.rows, a.columns, left.data(), a.columns, right.data(),
                b.columns, result.data(), a.rows});
  return result;
}

void mirror(AlignedDoubles& matrix, int n) {
  for (int column = 0; column < n; ++column) {
    for (int row = 0; row < column; ++row) {
      matrix[cells(column, n) + static_cast<std::size_t>(row)] =
          matrix[cells(row, n) + static_cast<std::size_t>(column)];
    }
  }
}

AlignedDoubles diagonal_block(const AlignedDoubles& matrix, int n, int first, int size) {
  AlignedDoubles result(cells(size, size));
  for (int column = 0; column < size; ++column) {
    const double* source = matrix.data() + cells(first + column, n) + first;
    std::copy(source + column, source + size, result.data() + cells(column, size) + column);
  }
  mirror(result, size);
  return result;
}

Moments moments(const AlignedDoubles& lower, int n) {
  Moments sums;
  for (int column = 0; column < n; ++column) {
    const double* values = lower.data() + cells(column, n);
    double off = 0;
    for (int row = column + 1; row < n; ++row) {
      off += values[row] * values[row];
    }
    sums.trace += values[column];
    sums.square += 2 * off + values[column] * values[column];
  }
  return sums;
}

}  // namespace kvscope::spectral
