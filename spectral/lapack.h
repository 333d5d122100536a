#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <vector>

namespace kvscope::spectral {

/// Doubles on a 64-byte boundary, zeroed: vector code then takes the same path in every run.
class AlignedDoubles {
 public:
  AlignedDoubles() = default;
  explicit AlignedDoubles(std::size_t count);
  double* data() { return data_.get(); }
  const double* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  double& operator[](std::size_t i) { return data_[i]; }
  double operator[](std::size_t i) const { return data_[i]; }

 private:
  struct Release {
    void operator()(double* pointer) const { ::operator delete[](pointer, std::align_val_t{64}); }
  };
  std::unique_ptr<double[], Release> data_;
  std::size_t size_ = 0;
};

/// Which side of W [rows, columns] the Gram matrix has: W W^T or W^T W.
enum class GramSide { rows, columns };

/// Gram matrix of a row-major block of W whose rows lie `stride` doubles apart. Full and symmetric,
/// [n, n] with n = rows or columns. On the calling thread alone.
AlignedDoubles gram(const double* w, int rows, int columns, std::ptrdiff_t stride, GramSide side);

/// Eigenvalues of a symmetric [n, n] matrix, descending. Empty if neither driver converges or the
/// sum misses the trace. Eigen up to n = 256, LAPACK dsyevd above; the other one is tried on
/// failure.
std::vector<double> symmetric_eigenvalues(const AlignedDoubles& matrix, int n);

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
