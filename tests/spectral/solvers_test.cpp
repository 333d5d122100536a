#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <limits>
#include <numbers>
#include <numeric>

#include "device.h"
#include "kvscope/core/error.h"
#include "matrix_spectrum.h"
#include "spectra.h"
#include "tables.h"

namespace kvscope::spectral {
namespace {

TEST(Solvers, LapackAndEigenAgree) {
  for (const auto& [rows, columns] : {std::pair(7, 30), std::pair(200, 240), std::pair(300, 500)}) {
    const Matrix w = gaussian(rows, columns, 3);
    const std::vector<double> a = spectrum_of(w, lapack_solver());
    const std::vector<double> b = spectrum_of(w, eigen_solver());
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], 64 * rows * 2.2e-16 * a[0]) << rows;
    }
  }
}

TEST(Solvers, CusolverAgreesWithTheCpu) {
  std::shared_ptr<const EigenSolver> cuda;
  try {
    cuda = solver_for("cuda");
  } catch (const Error& error) {
    GTEST_SKIP() << error.message();
  }
  for (const auto& [rows, columns] : {std::pair(64, 576), std::pair(576, 576)}) {
    const Matrix w = gaussian(rows, columns, 4);
    const std::vector<double> a = spectrum_of(w, *cuda);
    const std::vector<double> b = spectrum_of(w);
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], 64 * rows * 2.2e-16 * b[0]);
    }
  }
}

TEST(Solvers, DevicesAreNamedOrRefused) {
  EXPECT_STREQ(solver_for("cpu")->name(), cpu_solver().name());
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cudax", ""}) {
    EXPECT_THROW(solver_for(name), Error) << name;
  }
  try {
    solver_for("cuda:4711");
    FAIL() << "no machine has that many";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(error.fix().find("--device cpu"), std::string::npos);
  }
}

TEST(Solvers, EigenvectorsAreOrthonormalAndLeaveNoResidual) {
  for (const int n : {48, 300}) {  // Eigen, LAPACK
    const Floats floats(gaussian(n, n + 50, 8));
    AlignedDoubles g = gram(floats.view(), GramSide::rows);
    mirror(g, n);
    const EigenPairs pairs = symmetric_eigen(g, n);
    ASSERT_EQ(pairs.values.size(), static_cast<std::size_t>(n));
    const double tolerance = 64 * n * 2.2e-16 * pairs.values[0];
    for (int i = 0; i < n; i += 7) {
      const double* u = pairs.vectors.data() + cells(i, n);
      for (int row = 0; row < n; ++row) {
        double product = 0;
        for (int k = 0; k < n; ++k) {
          product += g[cells(k, n) + static_cast<std::size_t>(row)] * u[k];
        }
        EXPECT_NEAR(product, pairs.values[static_cast<std::size_t>(i)] * u[row], tolerance);
      }
      for (int j = 0; j <= i; j += 5) {
        const double* v = pairs.vectors.data() + cells(j, n);
        EXPECT_NEAR(std::inner_product(u, u + n, v, 0.0), i == j ? 1 : 0, 64 * n * 2.2e-16);
      }
    }
  }
}

TEST(Solvers, CirculantSpectrumIsTheFourierTransform) {
  const int n = 60;
  const Matrix row = gaussian(1, n, 12);
  Matrix w(n, n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      w.at(i, j) = static_cast<double>(static_cast<float>(row.at(0, (j - i + n) % n)));
    }
  }
  std::vector<double> squares;
  for (int k = 0; k < n; ++k) {
    std::complex<double> sum = 0;
    for (int j = 0; j < n; ++j) {
      sum += w.at(0, j) * std::polar(1.0, -2 * std::numbers::pi * j * k / n);
    }
    squares.push_back(std::norm(sum));
  }
  std::sort(squares.rbegin(), squares.rend());
  const std::vector<double> found = spectrum_of(w);
  for (int i = 0; i < n; ++i) {
    EXPECT_NEAR(found[static_cast<std::size_t>(i)], squares[static_cast<std::size_t>(i)],
                64 * n * 2.2e-16 * squares[0]);
  }
}

TEST(Solvers, GramMatrixOfBothSidesOverManyPanels) {
  const Floats floats(gaussian(30, 130, 9));
  const AlignedDoubles rows = gram(floats.view(), GramSide::rows);
  const AlignedDoubles columns = gram(floats.view(), GramSide::columns);
  const auto entry = [&](int r, int c) {
    return static_cast<double>(floats.values[static_cast<std::size_t>(r * 130 + c)]);
  };
  double expected = 0;
  for (int k = 0; k < 130; ++k) {
    expected += entry(3, k) * entry(17, k);
  }
  EXPECT_NEAR(rows[3 * 30 + 17], expected, 1e-12);
  EXPECT_EQ(rows[17 * 30 + 3], 0) << "only the lower triangle, column-major";
  expected = 0;
  for (int k = 0; k < 30; ++k) {
    expected += entry(k, 100) * entry(k, 120);
  }
  EXPECT_NEAR(columns[100 * 130 + 120], expected, 1e-12);
  EXPECT_EQ(columns[120 * 130 + 100], 0);
}

/// Never converges above a size; below it, Eigen.
class Stubborn final : public EigenSolver {
 public:
  explicit Stubborn(int up_to) : up_to_(up_to) {}
  const char* name() const override { return "stubborn"; }
  std::vector<double> values(AlignedDoubles lower, int n) const override {
    return n > up_to_ ? std::vector<double>() : eigen_solver().values(std::move(lower), n);
  }

 private:
  int up_to_;
};

/// Converges, to something else.
class Wrong final : public EigenSolver {
 public:
  const char* name() const override { return "wrong"; }
  std::vector<double> values(AlignedDoubles lower, int n) const override {
    std::vector<double> values = eigen_solver().values(std::move(lower), n);
    values.front() += 1e-3;
    return values;
  }
};

FakeModel one_layer() {
  FakeModel model(1, 4, 2, 8, 32);
  model.fill(1);
  return model;
}

TEST(Solvers, NonConvergenceIsAStatusNotACrash) {
  const FakeModel model = one_layer();
  const ProjectionLayout layout = layout_of(1, model.config().shape);
  const Stubborn never(0);
  const MatrixSpectrum lost = matrix_spectrum(model, 0, layout, {}, {never, never});
  EXPECT_EQ(lost.status, SpectrumStatus::no_convergence);
  EXPECT_EQ(lost.message, "no eigenvalue solver converged on the matrix");
  EXPECT_TRUE(std::isnan(lost.layer[0]));
  EXPECT_TRUE(std::isnan(lost.layer_metrics[Metric::stable_rank]));
  const Stubborn heads_only(8);
  const MatrixSpectrum half = matrix_spectrum(model, 0, layout, {}, {heads_only, heads_only});
  EXPECT_EQ(half.status, SpectrumStatus::no_convergence);
  EXPECT_FALSE(std::isnan(half.heads[1][0])) << "what converged is kept";
}

TEST(Solvers, ASecondSolverIsAskedOnce) {
  const FakeModel model = one_layer();
  const ProjectionLayout layout = layout_of(1, model.config().shape);
  const MatrixSpectrum direct =
      matrix_spectrum(model, 0, layout, {}, {eigen_solver(), eigen_solver()});
  const Stubborn never(0);
  const Wrong wrong;
  for (const EigenSolver* first : std::vector<const EigenSolver*>{&never, &wrong}) {
    const MatrixSpectrum saved = matrix_spectrum(model, 0, layout, {}, {*first, eigen_solver()});
    EXPECT_EQ(saved.status, SpectrumStatus::ok) << first->name();
    EXPECT_EQ(saved.layer, direct.layer);
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(saved.heads[1][i], direct.heads[1][i], 1e-12 * direct.heads[1][0]);
    }
  }
}

TEST(Solvers, DegenerateBlocks) {
  EXPECT_EQ(degeneracy_blocks({9, 9, 8.9999, 4, 1e-6, 1e-7, 0}, 0.01, 1e-3),
            (std::vector<int>{0, 0, 0, 1, 2, 2, 2}))
      << "equal within 1e-3, then both below the floor";
  EXPECT_EQ(degeneracy_blocks({4, 2, 1}, std::nan(""), 1e-3), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(degeneracy_blocks({0, 0}, std::nan(""), 1e-3), (std::vector<int>{0, 0}));
}

}  // namespace
}  // namespace kvscope::spectral
