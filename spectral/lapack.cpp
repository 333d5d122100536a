// The one file that knows Eigen's solver and Fortran LAPACK: MKL inside libtorch_cpu where LibTorch
// is linked, else the system's. Never both.
#include "lapack.h"

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <functional>

#ifdef KVSCOPE_SPECTRAL_LAPACK
extern "C" {
void dgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const double* alpha, const double* a, const int* lda, const double* b, const int* ldb,
            const double* beta, double* c, const int* ldc);
void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
             double* work, const int* lwork, int* iwork, const int* liwork, int* info);
int MKL_Set_Num_Threads_Local(int threads) __attribute__((weak));
void openblas_set_num_threads(int threads) __attribute__((weak));
int openblas_get_num_threads() __attribute__((weak));
}
#endif

namespace kvscope::spectral {
namespace {

constexpr int eigen_up_to = 256;  // Eigen's unblocked reduction is the faster one below

std::size_t square(int n) {
  return static_cast<std::size_t>(n) * static_cast<std::size_t>(n);
}

std::vector<double> eigen_solve(const AlignedDoubles& matrix, int n) {
  const Eigen::Map<const Eigen::MatrixXd> view(matrix.data(), n, n);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(view, Eigen::EigenvaluesOnly);
  if (solver.info() != Eigen::Success) {
    return {};
  }
  const Eigen::VectorXd& values = solver.eigenvalues();
  return {values.data(), values.data() + n};
}

#ifdef KVSCOPE_SPECTRAL_LAPACK
std::vector<double> lapack_solve(const AlignedDoubles& matrix, int n) {
  AlignedDoubles copy(square(n));
  std::copy(matrix.data(), matrix.data() + square(n), copy.data());
  AlignedDoubles values(static_cast<std::size_t>(n));
  // The old minimal workspace 2n + 1 would run the unblocked reduction, at half the speed.
  const int work_size = 2 * n + 64 * n + 1;
  const int integer_size = 5 * n + 3;
  AlignedDoubles work(static_cast<std::size_t>(work_size));
  std::vector<int> integers(static_cast<std::size_t>(integer_size));
  int info = 0;
  dsyevd_("N", "U", &n, copy.data(), &n, values.data(), work.data(), &work_size, integers.data(),
          &integer_size, &info);
  if (info != 0) {
    return {};
  }
  return {values.data(), values.data() + n};
}

// One column block of the upper triangle at a time: half the work of the whole product.
void product(const double* w, int rows, int columns, std::ptrdiff_t stride, GramSide side,
             double* out) {
  constexpr int block = 192;
  const int n = side == GramSide::rows ? rows : columns;
  const int k = side == GramSide::rows ? columns : rows;
  const int leading = static_cast<int>(stride);
  const double one = 1;
  const double zero = 0;
  for (int first = 0; first < n; first += block) {
    const int width = std::min(block, n - first);
    const int height = first + width;
    double* c = out + static_cast<std::ptrdiff_t>(first) * n;
    if (side == GramSide::rows) {
      dgemm_("T", "N", &height, &width, &k, &one, w, &leading, w + first * stride, &leading, &zero,
             c, &n);
    } else {
      dgemm_("N", "T", &height, &width, &k, &one, w, &leading, w + first, &leading, &zero, c, &n);
    }
  }
}
#else
std::vector<double> lapack_solve(const AlignedDoubles& matrix, int n) {
  return eigen_solve(matrix, n);
}

void product(const double* w, int rows, int columns, std::ptrdiff_t stride, GramSide side,
             double* out) {
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const RowMajor, 0, Eigen::OuterStride<> > view(w, rows, columns,
                                                                  Eigen::OuterStride<>(stride));
  const int n = side == GramSide::rows ? rows : columns;
  Eigen::Map<Eigen::MatrixXd> result(out, n, n);
  result.setZero();
  if (side == GramSide::rows) {
    result.selfadjointView<Eigen::Upper>().rankUpdate(view);
  } else {
    result.selfadjointView<Eigen::Upper>().rankUpdate(view.transpose());
  }
}
#endif

bool matches_trace(const std::vector<double>& values, const AlignedDoubles& matrix, int n) {
  double sum = 0;
  double trace = 0;
  double magnitude = 0;
  for (int i = 0; i < n; ++i) {
    const double diagonal = matrix[static_cast<std::size_t>(i) * static_cast<std::size_t>(n + 1)];
    trace += diagonal;
    magnitude += std::abs(diagonal);
    sum += values[static_cast<std::size_t>(i)];
  }
  return std::abs(sum - trace) <= 1e-11 * magnitude;
}

}  // namespace

AlignedDoubles::AlignedDoubles(std::size_t count)
    : data_(static_cast<double*>(::operator new[](std::max<std::size_t>(count, 1) * sizeof(double),
                                                  std::align_val_t{64}))),
      size_(count) {
  std::fill(data_.get(), data_.get() + count, 0.0);
}

AlignedDoubles gram(const double* w, int rows, int columns, std::ptrdiff_t stride, GramSide side) {
  const int n = side == GramSide::rows ? rows : columns;
  AlignedDoubles result(square(n));
  product(w, rows, columns, stride, side, result.data());
  for (int column = 0; column < n; ++column) {
    for (int row = column + 1; row < n; ++row) {
      result[static_cast<std::size_t>(column) * static_cast<std::size_t>(n) +
             static_cast<std::size_t>(row)] =
          result[static_cast<std::size_t>(row) * static_cast<std::size_t>(n) +
                 static_cast<std::size_t>(column)];
    }
  }
  return result;
}

std::vector<double> symmetric_eigenvalues(const AlignedDoubles& matrix, int n) {
  const bool eigen_first = n <= eigen_up_to;
  std::vector<double> values = eigen_first ? eigen_solve(matrix, n) : lapack_solve(matrix, n);
  if (values.empty() || !matches_trace(values, matrix, n)) {
    values = eigen_first ? lapack_solve(matrix, n) : eigen_solve(matrix, n);
    if (values.empty() || !matches_trace(values, matrix, n)) {
      return {};
    }
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

SingleThreaded::SingleThreaded() {
#ifdef KVSCOPE_SPECTRAL_LAPACK
  if (MKL_Set_Num_Threads_Local != nullptr) {
    before_ = MKL_Set_Num_Threads_Local(1);
  } else if (openblas_set_num_threads != nullptr && openblas_get_num_threads != nullptr) {
    before_ = openblas_get_num_threads();
    openblas_set_num_threads(1);
  }
#endif
}

SingleThreaded::~SingleThreaded() {
#ifdef KVSCOPE_SPECTRAL_LAPACK
  if (MKL_Set_Num_Threads_Local != nullptr) {
    MKL_Set_Num_Threads_Local(before_);
  } else if (openblas_set_num_threads != nullptr && before_ > 0) {
    openblas_set_num_threads(before_);
  }
#endif
}

}  // namespace kvscope::spectral
