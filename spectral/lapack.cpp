// The one file that knows Eigen's solvers and Fortran LAPACK: MKL inside libtorch_cpu where
// LibTorch is linked, else the system's. Never both. libtorch_cpu exports dgemm, dsyevd, dgeqrf and
// dgesdd but no dsyrk, so Gram matrices are products of column blocks (gram.cpp).
#include "lapack.h"

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <Eigen/SVD>
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
void dgeqrf_(const int* m, const int* n, double* a, const int* lda, double* tau, double* work,
             const int* lwork, int* info);
void dgesdd_(const char* jobz, const int* m, const int* n, double* a, const int* lda, double* s,
             double* u, const int* ldu, double* vt, const int* ldvt, double* work, const int* lwork,
             int* iwork, int* info);
int MKL_Set_Num_Threads_Local(int threads) __attribute__((weak));
void openblas_set_num_threads(int threads) __attribute__((weak));
int openblas_get_num_threads() __attribute__((weak));
}
#endif

namespace kvscope::spectral {
namespace {

constexpr int eigen_up_to = 128;  // measured: at 192 MKL is faster by a third

using Columns = Eigen::Map<Eigen::MatrixXd>;
using ConstColumns = Eigen::Map<const Eigen::MatrixXd>;

class EigenTypes final : public EigenSolver {
 public:
  const char* name() const override { return "Eigen"; }
  std::vector<double> values(AlignedDoubles lower, int n) const override {
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(ConstColumns(lower.data(), n, n),
                                                                Eigen::EigenvaluesOnly);
    if (solver.info() != Eigen::Success) {
      return {};
    }
    const Eigen::VectorXd& found = solver.eigenvalues();
    return {found.data(), found.data() + n};
  }
};

EigenPairs eigen_pairs(const AlignedDoubles& matrix, int n) {
  const ConstColumns view(matrix.data(), n, n);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(view);
  EigenPairs pairs;
  if (solver.info() == Eigen::Success) {
    pairs.values.assign(solver.eigenvalues().data(), solver.eigenvalues().data() + n);
    pairs.vectors = AlignedDoubles(cells(n, n));
    Columns(pairs.vectors.data(), n, n) = solver.eigenvectors();
  }
  return pairs;
}

#ifdef KVSCOPE_SPECTRAL_LAPACK

class Lapack final : public EigenSolver {
 public:
  const char* name() const override { return "LAPACK dsyevd"; }
  std::vector<double> values(AlignedDoubles lower, int n) const override {
    AlignedDoubles found(static_cast<std::size_t>(n));
    std::vector<int> integers(static_cast<std::size_t>(5 * n + 3));
    const auto integer_size = static_cast<int>(integers.size());
    int info = 0;
    const auto solve = [&](double* work, int work_size) {
      dsyevd_("N", "L", &n, lower.data(), &n, found.data(), work, &work_size, integers.data(),
              &integer_size, &info);
    };
    // MKL reduces in two stages, three times as fast at n = 4096, only with the workspace it asks
    // for (126 n to 200 n); with the old minimal one, 2n + 1, the reference runs unblocked.
    double wanted = 0;
    constexpr int query = -1;
    solve(&wanted, query);
    const double enough = 2.0 * n + 64.0 * n + 1;
    AlignedDoubles work(static_cast<std::size_t>(std::max(info == 0 ? wanted : 0.0, enough)));
    solve(work.data(), static_cast<int>(work.size()));
    if (info != 0) {
      return {};
    }
    return {found.data(), found.data() + n};
  }
};

EigenPairs lapack_pairs(const AlignedDoubles& matrix, int n) {
  EigenPairs pairs;
  pairs.vectors = AlignedDoubles(cells(n, n));
  std::copy(matrix.data(), matrix.data() + cells(n, n), pairs.vectors.data());
  AlignedDoubles found(static_cast<std::size_t>(n));
  // By formula, in 64 bits: the library's own query is returned in a double here, but in a float
  // for single precision, one short from n = 2896 on.
  const std::int64_t wide = 1 + 6 * std::int64_t{n} + 2 * std::int64_t{n} * n;
  const int work_size = static_cast<int>(std::min<std::int64_t>(wide, 2147483647));
  const int integer_size = 5 * n + 3;
  AlignedDoubles work(static_cast<std::size_t>(work_size));
  std::vector<int> integers(static_cast<std::size_t>(integer_size));
  int info = wide > work_size ? -8 : 0;
  if (info == 0) {
    dsyevd_("V", "L", &n, pairs.vectors.data(), &n, found.data(), work.data(), &work_size,
            integers.data(), &integer_size, &info);
  }
  if (info != 0) {
    return {};
  }
  pairs.values.assign(found.data(), found.data() + n);
  return pairs;
}

#else

EigenPairs lapack_pairs(const AlignedDoubles& matrix, int n) {
  return eigen_pairs(matrix, n);
}

#endif

class ByMeasurement final : public EigenSolver {
 public:
  const char* name() const override { return "Eigen to n = 128, LAPACK dsyevd above"; }
  std::vector<double> values(AlignedDoubles lower, int n) const override {
    const EigenSolver& chosen = n <= eigen_up_to ? eigen_solver() : lapack_solver();
    return chosen.values(std::move(lower), n);
  }
};

/// Ascending pairs turned round; each vector's largest component made positive.
void tidy(EigenPairs& pairs, int n) {
  std::reverse(pairs.values.begin(), pairs.values.end());
  double* data = pairs.vectors.data();
  for (int i = 0; i < n / 2; ++i) {
    std::swap_ranges(data + cells(i, n), data + cells(i + 1, n), data + cells(n - 1 - i, n));
  }
  for (int i = 0; i < n; ++i) {
    double* vector = data + cells(i, n);
    const double* largest = std::max_element(
        vector, vector + n, [](double a, double b) { return std::abs(a) < std::abs(b); });
    if (*largest < 0) {
      std::transform(vector, vector + n, vector, std::negate<>());
    }
  }
}

}  // namespace

std::vector<std::vector<double>> EigenSolver::batch(const AlignedDoubles& lowers, int n,
                                                    int count) const {
  std::vector<std::vector<double>> lists;
  for (int i = 0; i < count; ++i) {
    AlignedDoubles one(cells(n, n));
    const double* first = lowers.data() + static_cast<std::size_t>(i) * cells(n, n);
    std::copy(first, first + cells(n, n), one.data());
    lists.push_back(values(std::move(one), n));
  }
  return lists;
}

const EigenSolver& eigen_solver() {
  static const EigenTypes solver;
  return solver;
}

const EigenSolver& lapack_solver() {
#ifdef KVSCOPE_SPECTRAL_LAPACK
  static const Lapack solver;
  return solver;
#else
  return eigen_solver();
#endif
}

const EigenSolver& cpu_solver() {
  static const ByMeasurement solver;
  return solver;
}

const char* blas_name() {
#ifdef KVSCOPE_SPECTRAL_LAPACK
  return MKL_Set_Num_Threads_Local != nullptr  ? "MKL (libtorch_cpu)"
         : openblas_set_num_threads != nullptr ? "OpenBLAS"
                                               : "LAPACK";
#else
  return "Eigen";
#endif
}

void multiply_add(const Product& p) {
#ifdef KVSCOPE_SPECTRAL_LAPACK
  const double one = 1;
  dgemm_(p.transpose_a ? "T" : "N", p.transpose_b ? "T" : "N", &p.m, &p.n, &p.k, &one, p.a,
         &p.leading_a, p.b, &p.leading_b, &one, p.c, &p.leading_c);
#else
  using Strided = Eigen::Map<const Eigen::MatrixXd, 0, Eigen::OuterStride<>>;
  const Strided a(p.a, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k,
                  Eigen::OuterStride<>(p.leading_a));
  const Strided b(p.b, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n,
                  Eigen::OuterStride<>(p.leading_b));
  Eigen::Map<Eigen::MatrixXd, 0, Eigen::OuterStride<>> c(p.c, p.m, p.n,
                                                         Eigen::OuterStride<>(p.leading_c));
  if (p.transpose_a && p.transpose_b) {
    c.noalias() += a.transpose() * b.transpose();
  } else if (p.transpose_a) {
    c.noalias() += a.transpose() * b;
  } else if (p.transpose_b) {
    c.noalias() += a * b.transpose();
  } else {
    c.noalias() += a * b;
  }
#endif
}

EigenPairs symmetric_eigen(const AlignedDoubles& matrix, int n) {
  EigenPairs pairs = n <= eigen_up_to ? eigen_pairs(matrix, n) : lapack_pairs(matrix, n);
  if (pairs.values.empty()) {
    pairs = n <= eigen_up_to ? lapack_pairs(matrix, n) : eigen_pairs(matrix, n);
  }
  if (!pairs.values.empty()) {
    tidy(pairs, n);
  }
  return pairs;
}

std::vector<std::complex<double>> general_eigenvalues(const AlignedDoubles& matrix, int n) {
  const Eigen::MatrixXd copy = ConstColumns(matrix.data(), n, n);
  const Eigen::EigenSolver<Eigen::MatrixXd> solver(copy, false);
  if (solver.info() != Eigen::Success) {
    return {};
  }
  std::vector<std::complex<double>> found(solver.eigenvalues().data(),
                                          solver.eigenvalues().data() + n);
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return std::abs(a) > std::abs(b); });
  return found;
}

AlignedDoubles qr_factor(AlignedDoubles& matrix, int rows, int columns) {
  const int height = std::min(rows, columns);
  AlignedDoubles r(cells(height, columns));
#ifdef KVSCOPE_SPECTRAL_LAPACK
  AlignedDoubles tau(static_cast<std::size_t>(height));
  const int work_size = 64 * columns;
  AlignedDoubles work(static_cast<std::size_t>(work_size));
  int info = 0;
  dgeqrf_(&rows, &columns, matrix.data(), &rows, tau.data(), work.data(), &work_size, &info);
#else
  Columns view(matrix.data(), rows, columns);
  view = Eigen::HouseholderQR<Eigen::MatrixXd>(view).matrixQR();
#endif
  for (int column = 0; column < columns; ++column) {
    const double* source = matrix.data() + cells(column, rows);
    std::copy(source, source + std::min(column + 1, height), r.data() + cells(column, height));
  }
  return r;
}

std::vector<double> singular_values(AlignedDoubles& matrix, int rows, int columns) {
  const int n = std::min(rows, columns);
#ifdef KVSCOPE_SPECTRAL_LAPACK
  std::vector<double> values(static_cast<std::size_t>(n));
  const int one = 1;
  const int work_size = 7 * n + 64 * (rows + columns) + std::max(rows, columns);
  AlignedDoubles work(static_cast<std::size_t>(work_size));
  std::vector<int> integers(static_cast<std::size_t>(8 * n));
  double unused = 0;
  int info = 0;
  dgesdd_("N", &rows, &columns, matrix.data(), &rows, values.data(), &unused, &one, &unused, &one,
          work.data(), &work_size, integers.data(), &info);
  if (info == 0) {
    return values;
  }
#endif
  const Eigen::BDCSVD<Eigen::MatrixXd> solver(ConstColumns(matrix.data(), rows, columns));
  const Eigen::VectorXd& found = solver.singularValues();
  return found.allFinite() ? std::vector<double>(found.data(), found.data() + n)
                           : std::vector<double>();
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
