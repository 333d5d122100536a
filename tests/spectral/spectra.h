#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "fake_model.h"
#include "gram.h"
#include "lapack.h"

namespace kvscope::spectral {

/// A test matrix as the module sees it: float32 numbers.
struct Floats {
  explicit Floats(const Matrix& matrix)
      : values(matrix.data.begin(), matrix.data.end()),
        rows(matrix.rows),
        columns(matrix.columns) {}
  WeightView view() const {
    WeightView view;
    view.data = values.data();
    view.rows = rows;
    view.columns = columns;
    view.stride = columns;
    return view;
  }
  std::vector<float> values;
  int rows = 0;
  int columns = 0;
};

/// Eigenvalues, descending, of the smaller Gram matrix.
inline std::vector<double> spectrum_of(const Matrix& matrix,
                                       const EigenSolver& solver = cpu_solver()) {
  const SingleThreaded single;  // two threads on one small matrix spin
  const Floats floats(matrix);
  const GramSide side = matrix.rows <= matrix.columns ? GramSide::rows : GramSide::columns;
  std::vector<double> values =
      solver.values(gram(floats.view(), side), std::min(matrix.rows, matrix.columns));
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

}  // namespace kvscope::spectral
