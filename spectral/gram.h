#pragma once

#include <cstddef>
#include <vector>

#include "buffer.h"

namespace kvscope::spectral {

/// A block of a row-major float matrix as float64 numbers see it: entry (r, c) is
/// ldexp(data[r * stride + c], -exponent) * row_factor[r] * column_factor[c]. Products of two
/// floats are exact in float64.
struct WeightView {
  const float* data = nullptr;
  int rows = 0;
  int columns = 0;
  std::ptrdiff_t stride = 0;
  int exponent = 0;
  const double* row_factor = nullptr;     ///< [rows] or none
  const double* column_factor = nullptr;  ///< [columns] or none

  WeightView row_block(int first, int count) const;
  WeightView column_block(int first, int count) const;
};

/// Rows [first_row, +rows) and columns [first_column, +columns) widened, row-major, tight.
void widen(const WeightView& w, int first_row, int rows, int first_column, int columns,
           double* out);

/// Which side of W [rows, columns] the Gram matrix has: W W^T or W^T W.
enum class GramSide { rows, columns };

/// Lower triangle of the Gram matrix of `w`, column-major [n, n] with n = rows or columns; above
/// the diagonal it stays zero and costs no memory. W is widened in panels, never whole. On the
/// calling thread alone.
AlignedDoubles gram(const WeightView& w, GramSide side);

/// A B^T of two row blocks over the same columns: column-major [a.rows, b.rows].
AlignedDoubles cross_gram(const WeightView& a, const WeightView& b);

/// Copies the lower triangle above the diagonal.
void mirror(AlignedDoubles& matrix, int n);

/// Diagonal block [first, first + size) of a matrix whose lower triangle is given, mirrored.
AlignedDoubles diagonal_block(const AlignedDoubles& matrix, int n, int first, int size);

/// Trace and squared Frobenius norm of a symmetric matrix given by its lower triangle.
struct Moments {
  double trace = 0;
  double square = 0;
};
Moments moments(const AlignedDoubles& lower, int n);

}  // namespace kvscope::spectral
