#pragma once

#include <complex>
#include <memory>
#include <vector>

#include "buffer.h"

namespace kvscope::spectral {

/// C += op(A) op(B), all column-major; op(A) is [m, k], op(B) is [k, n].
struct Product {
  bool transpose_a = false;
  bool transpose_b = false;
  int m = 0;
  int n = 0;
  int k = 0;
  const double* a = nullptr;
  int leading_a = 0;
  const double* b = nullptr;
  int leading_b = 0;
  double* c = nullptr;
  int leading_c = 0;
};
void multiply_add(const Product& product);

/// Eigenvalues of symmetric matrices: one implementation for each library.
class EigenSolver {
 public:
  virtual ~EigenSolver() = default;
  virtual const char* name() const = 0;
  /// Eigenvalues in any order of the symmetric column-major [n, n] matrix whose lower triangle is
  /// given; what it was given is consumed. Empty if it does not converge.
  virtual std::vector<double> values(AlignedDoubles lower, int n) const = 0;
  /// The same for `count` matrices one after another: one by one unless the library has better.
  virtual std::vector<std::vector<double>> batch(const AlignedDoubles& lowers, int n,
                                                 int count) const;
};

/// LAPACK dsyevd (MKL inside libtorch_cpu, or the system's); Eigen where the build has no LAPACK.
const EigenSolver& lapack_solver();
/// Eigen's tridiagonalisation and QR.
const EigenSolver& eigen_solver();
/// Eigen up to n = 128, LAPACK above: measured.
const EigenSolver& cpu_solver();
/// "MKL (libtorch_cpu)", "OpenBLAS", ... or "Eigen".
const char* blas_name();

/// Eigenvalues, descending, and eigenvectors of a full symmetric matrix.
struct EigenPairs {
  std::vector<double> values;  ///< [n] descending; empty if it does not converge
  AlignedDoubles vectors;      ///< column-major [n, n], column i belongs to values[i]
};
/// The sign of a vector makes its largest component positive.
EigenPairs symmetric_eigen(const AlignedDoubles& matrix, int n);

/// Eigenvalues of a general column-major [n, n] matrix, largest modulus first; empty if it does not
/// converge.
std::vector<std::complex<double>> general_eigenvalues(const AlignedDoubles& matrix, int n);

/// R of the thin QR factors of a tall column-major [rows, columns] matrix, which is overwritten:
/// column-major [columns, columns], zero below the diagonal; [rows, columns] if rows < columns.
AlignedDoubles qr_factor(AlignedDoubles& matrix, int rows, int columns);

/// Singular values, descending, of a column-major [rows, columns] matrix, which is overwritten.
/// Empty if it does not converge.
std::vector<double> singular_values(AlignedDoubles& matrix, int rows, int columns);

/// While it lives, matrix products of the calling thread run on that thread alone, where the
/// library can be told: then sums have one order.
class SingleThreaded {
 public:
  SingleThreaded();
  ~SingleThreaded();
  SingleThreaded(const SingleThreaded&) = delete;
  SingleThreaded& operator=(const SingleThreaded&) = delete;

 private:
  int before_ = 0;
};

}  // namespace kvscope::spectral
