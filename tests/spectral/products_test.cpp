#include "products.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kvscope/spectral/analyze.h"
#include "metrics.h"
#include "spectra.h"

namespace kvscope::spectral {
namespace {

FakeModel model_of(int query_heads, int kv_heads, int head_dim, int hidden) {
  FakeModel model(1, query_heads, kv_heads, head_dim, hidden);
  model.fill(3);
  return model;
}

Matrix float_product(const Matrix& a, const Matrix& b) {  // a^T b
  Matrix product(a.columns, b.columns);
  for (int i = 0; i < a.columns; ++i) {
    for (int j = 0; j < b.columns; ++j) {
      for (int k = 0; k < a.rows; ++k) {
        product.at(i, j) += static_cast<double>(static_cast<float>(a.at(k, i))) *
                            static_cast<double>(static_cast<float>(b.at(k, j)));
      }
    }
  }
  return product;
}

Matrix rows_of(const Matrix& m, int first, int count) {
  Matrix part(count, m.columns);
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < m.columns; ++j) {
      part.at(i, j) = m.at(first + i, j);
    }
  }
  return part;
}

/// Singular values of a dense matrix, the slow way.
std::vector<double> dense_values(const Matrix& m) {
  AlignedDoubles copy(m.data.size());
  std::copy(m.data.begin(), m.data.end(), copy.data());
  return singular_values(copy, m.columns, m.rows);
}

TEST(Products, CoresHaveTheDenseSingularValues) {
  FakeModel model = model_of(4, 2, 8, 40);
  const LayerProducts products = layer_products(model, 0, {});
  ASSERT_EQ(products.qk.size(), 4u);
  ASSERT_EQ(products.ov.size(), 4u);
  for (int head = 0; head < 4; ++head) {
    const Matrix q = rows_of(model.matrix(Weight::wq, 0), head * 8, 8);
    const Matrix k = rows_of(model.matrix(Weight::wk, 0), head / 2 * 8, 8);
    const Matrix v = rows_of(model.matrix(Weight::wv, 0), head / 2 * 8, 8);
    const std::vector<double> qk = dense_values(float_product(q, k));  // [40, 40]
    Matrix o(8, 40);  // W_O of the head, transposed
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 40; ++j) {
        o.at(i, j) = model.matrix(Weight::wo, 0).at(j, head * 8 + i);
      }
    }
    const std::vector<double> ov = dense_values(float_product(o, v));
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(products.qk[static_cast<std::size_t>(head)][i], qk[i], 1e-13 * qk[0]);
      EXPECT_NEAR(products.ov[static_cast<std::size_t>(head)][i], ov[i], 1e-13 * ov[0]);
    }
    EXPECT_LT(qk[8], 1e-13 * qk[0]) << "rank head_dim";
  }
}

TEST(Products, EigenvaluesTellCopyingFromItsOpposite) {
  FakeModel model = model_of(3, 1, 8, 40);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 40; ++j) {  // head 0 writes what V read, head 1 takes it away
      model.matrix(Weight::wo, 0).at(j, i) = model.matrix(Weight::wv, 0).at(i, j);
      model.matrix(Weight::wo, 0).at(j, 8 + i) = -model.matrix(Weight::wv, 0).at(i, j);
    }
  }
  SpectralOptions options;
  options.ov_eigenvalues = true;
  const Spectrum s = analyze_weights(model, options);
  const SpectrumTable* copying = s.find("metrics/head/ov/copying");
  const SpectrumTable* values = s.find("spectrum/head/ov/eigenvalues");
  ASSERT_NE(copying, nullptr);
  ASSERT_NE(values, nullptr);
  EXPECT_EQ(values->shape, (std::vector<int>{1, 3, 8, 2}));
  EXPECT_NEAR(copying->values[0], 1, 1e-12);
  EXPECT_NEAR(copying->values[1], -1, 1e-12);
  EXPECT_LT(std::abs(copying->values[2]), 0.9) << "unrelated factors";
  const auto& singular = s.find("spectrum/head/ov/singular_values")->values;
  double trace = 0;
  double imaginary = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(values->values[2 * i], singular[i], 1e-10 * singular[0]) << "W_V^T W_V is normal";
    trace += values->values[2 * (16 + i)];
    imaginary += values->values[2 * (16 + i) + 1];
  }
  double expected = 0;
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 40; ++j) {
      expected +=
          static_cast<double>(static_cast<float>(model.matrix(Weight::wo, 0).at(j, 16 + i))) *
          static_cast<double>(static_cast<float>(model.matrix(Weight::wv, 0).at(i, j)));
    }
  }
  EXPECT_NEAR(trace, expected, 1e-10 * singular[0]) << "the sum of the eigenvalues is the trace";
  EXPECT_NEAR(imaginary, 0, 1e-10 * singular[0]) << "they come in conjugate pairs";
}

TEST(Products, HeadsWiderThanTheModel) {
  const FakeModel model = model_of(2, 1, 24, 16);  // Gemma: head_dim above hidden / heads
  const LayerProducts products = layer_products(model, 0, {});
  ASSERT_EQ(products.qk[0].size(), 24u);
  EXPECT_GT(products.qk[0][15], 0);
  EXPECT_EQ(products.qk[0][16], 0) << "rank hidden_dim";
  EXPECT_EQ(products.ov[1].size(), 24u);
}

TEST(Products, GaugeChangesTheFactorNotTheProduct) {
  // W_V -> A W_V, W_O -> W_O A^-1 with A = diag(2^k): exact in float32.
  FakeModel model = model_of(2, 1, 8, 40);
  const Spectrum before = analyze_weights(model, {});
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 40; ++j) {
      model.matrix(Weight::wv, 0).at(i, j) *= std::ldexp(1.0, i);
      for (int head = 0; head < 2; ++head) {
        model.matrix(Weight::wo, 0).at(j, head * 8 + i) *= std::ldexp(1.0, -i);
      }
    }
  }
  const Spectrum after = analyze_weights(model, {});
  const auto& ov = before.find("spectrum/head/ov/singular_values")->values;
  const auto& turned = after.find("spectrum/head/ov/singular_values")->values;
  for (std::size_t i = 0; i < ov.size(); ++i) {
    EXPECT_NEAR(turned[i], ov[i], 1e-12 * ov[0]);
  }
  EXPECT_NE(after.find("asymmetry/A_KV")->values[0], before.find("asymmetry/A_KV")->values[0])
      << "'V is dispersed' is a statement about the stored factor";
}

TEST(Products, AlignmentAndOverlapByHand) {
  // K spans channels 0..3, Q channels 0..3 too; V channels 4..7: aligned, and not at all.
  FakeModel model(1, 1, 1, 4, 8);
  model.fill(3);
  Matrix q(4, 8);
  Matrix k(4, 8);
  Matrix v(4, 8);
  for (int i = 0; i < 4; ++i) {
    q.at(i, i) = 4 - i;
    k.at(i, i) = 8 - i;
    v.at(i, 4 + i) = 1;
  }
  model.set(Weight::wq, 0, q);
  model.set(Weight::wk, 0, k);
  model.set(Weight::wv, 0, v);
  const LayerProducts products = layer_products(model, 0, {});
  // |Q K^T|_F^2 = sum (q_i k_i)^2; |Q Q^T|_F^2 = sum q_i^4.
  const double cross = 32 * 32 + 21 * 21 + 12 * 12 + 5 * 5;
  const double qq = 256 + 81 + 16 + 1;
  const double kk = 4096 + 2401 + 1296 + 625;
  EXPECT_NEAR(products.gram_qk[0], cross / std::sqrt(qq * kk), 1e-12);
  EXPECT_NEAR(products.gram_kv[0], 0, 1e-12);
  EXPECT_EQ(products.gram_kk, std::vector<double>{1.0});
  EXPECT_NEAR(products.overlap[0], 1, 1e-12) << "k = 1: the same direction";
  EXPECT_NEAR(products.overlap[1], 1, 1e-12) << "k = 4: the same subspace";
  EXPECT_TRUE(std::isnan(products.overlap[2])) << "k = 16 is more than the head has";
}

TEST(Products, UnrelatedHeadsMeetTheirNulls) {
  FakeModel model = model_of(4, 2, 32, 512);
  const Spectrum s = analyze_weights(model, {});
  for (const char* name : {"gram_qk", "gram_kv"}) {
    const auto& found = s.find(std::string("alignment/") + name)->values;
    const auto& null = s.find(std::string("alignment/") + name + "_null")->values;
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i] / null[i], 1, 0.2) << name;
    }
  }
  for (const char* name : {"qk", "ov"}) {
    const std::string path = std::string("metrics/head/") + name + "/participation_ratio_rel";
    for (const double relative : s.find(path)->values) {
      EXPECT_NEAR(relative, 1, 0.05) << name;
    }
  }
  const auto& overlap = s.find("alignment/qk_subspace_overlap")->values;
  EXPECT_NEAR(overlap[2], 16.0 / 512, 0.02) << "chance is k / d";
}

TEST(Products, GaussianNullMatchesTheComponentsOfTheSpecification) {
  // specs/spectral.md 1: independent Gaussian Q and K of head size 64, d = 768 need 52 modes for 90
  // %.
  EXPECT_NEAR(gaussian_product_null(64, 768, 0).k90, 52, 1);
}

TEST(Products, MissingProjectionsLeaveTheOthers) {
  FakeModel model = model_of(4, 2, 8, 40);
  model.remove(Weight::wq, 0);
  const LayerProducts products = layer_products(model, 0, {});
  EXPECT_TRUE(products.qk.empty());
  EXPECT_TRUE(products.gram_qk.empty());
  EXPECT_EQ(products.ov.size(), 4u);
  EXPECT_EQ(products.gram_kv.size(), 2u);
}

}  // namespace
}  // namespace kvscope::spectral
