#include "kvscope/spectral/analyze.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "fake_model.h"

namespace kvscope {
namespace {

const SpectrumTable& table(const Spectrum& spectrum, const std::string& path) {
  const SpectrumTable* found = spectrum.find(path);
  EXPECT_NE(found, nullptr) << path;
  static const SpectrumTable none;
  return found == nullptr ? none : *found;
}

FakeModel gaussian_model() {
  FakeModel model(2, 4, 2, 8, 32);
  model.fill(1);
  return model;
}

TEST(AnalyzeWeights, ShapesAndAxes) {
  const Spectrum s = analyze_weights(gaussian_model(), {});
  EXPECT_EQ(s.layers, (std::vector<int>{0, 1}));
  EXPECT_EQ(s.projections, (std::vector<std::string>{"q", "k", "v", "o"}));
  EXPECT_EQ(table(s, "spectrum/layer/q/eigenvalues").shape, (std::vector<int>{2, 32}));
  EXPECT_EQ(table(s, "spectrum/layer/k/eigenvalues").shape, (std::vector<int>{2, 16}));
  EXPECT_EQ(table(s, "spectrum/head/k/eigenvalues").shape, (std::vector<int>{2, 2, 8}));
  EXPECT_EQ(table(s, "spectrum/head/k/eigenvalues").axes,
            (std::vector<std::string>{"layer", "kv_head", "mode"}));
  EXPECT_EQ(table(s, "spectrum/head/o/eigenvalues").shape, (std::vector<int>{2, 4, 8}));
  EXPECT_EQ(table(s, "metrics/layer/stable_rank_rel").shape, (std::vector<int>{2, 4}));
  EXPECT_EQ(table(s, "metrics/layer/energy_rank").shape, (std::vector<int>{2, 4, 4}));
  EXPECT_EQ(table(s, "metrics/head/q/erank_energy_null").shape, (std::vector<int>{2, 4}));
  EXPECT_EQ(table(s, "metrics/noise_floor").shape, (std::vector<int>{2, 4}));
  EXPECT_EQ(table(s, "asymmetry/A_KV").shape, (std::vector<int>{2}));
  for (const auto& [path, t] : s.tables) {
    EXPECT_EQ(t.shape.size(), t.axes.size()) << path;
    EXPECT_FALSE(t.units.empty()) << path;
    EXPECT_FALSE(t.long_name.empty()) << path;
    EXPECT_FALSE(t.formula.empty()) << path;
  }
  for (const SpectrumStatus status : s.status) {
    EXPECT_EQ(status, SpectrumStatus::ok);
  }
}

TEST(AnalyzeWeights, TraceIsAdditiveOverHeads) {
  const Spectrum s = analyze_weights(gaussian_model(), {});
  for (const char* projection : {"q", "k", "v", "o"}) {
    const auto& layer = table(s, std::string("spectrum/layer/") + projection + "/eigenvalues");
    const auto& head = table(s, std::string("spectrum/head/") + projection + "/eigenvalues");
    EXPECT_NEAR(std::accumulate(head.values.begin(), head.values.end(), 0.0) /
                    std::accumulate(layer.values.begin(), layer.values.end(), 0.0),
                1, 1e-12)
        << projection;
  }
}

TEST(AnalyzeWeights, HeadsWithOrthogonalRowSpacesJoin) {
  FakeModel model(1, 2, 2, 4, 16);
  model.fill(3);
  Matrix k(8, 16);
  for (int row = 0; row < 8; ++row) {
    k.at(row, row) = 8 - row;
  }
  reflect(k, false, 5);
  model.set(Weight::wk, 0, k);
  const Spectrum s = analyze_weights(model, {});
  const auto& layer = table(s, "spectrum/layer/k/eigenvalues").values;
  const auto& heads = table(s, "spectrum/head/k/eigenvalues").values;
  for (int i = 0; i < 8; ++i) {
    EXPECT_NEAR(layer[static_cast<std::size_t>(i)], (8 - i) * (8 - i), 1e-5);
    EXPECT_NEAR(heads[static_cast<std::size_t>(i)], (8 - i) * (8 - i), 1e-5)
        << "head 0 has rows 0 to 3";
  }
}

TEST(AnalyzeWeights, OutputHeadsAreColumnBlocks) {
  FakeModel model(1, 2, 1, 4, 6);  // hidden_dim 6 < 8 columns: the layer's Gram has the other side
  model.fill(3);
  Matrix o(6, 8);
  for (int i = 0; i < 4; ++i) {
    o.at(i, i) = 2;
    o.at(i, 4 + i) = 3;
  }
  model.set(Weight::wo, 0, o);
  const Spectrum s = analyze_weights(model, {});
  const auto& heads = table(s, "spectrum/head/o/eigenvalues").values;
  const auto& layer = table(s, "spectrum/layer/o/eigenvalues").values;
  for (std::size_t mode = 0; mode < 4; ++mode) {
    EXPECT_NEAR(heads[mode], 4, 1e-6);
    EXPECT_NEAR(heads[4 + mode], 9, 1e-6);
    EXPECT_NEAR(layer[mode], 13, 1e-6);
  }
  EXPECT_NEAR(layer[4], 0, 1e-9);
}

TEST(AnalyzeWeights, ScaleInvariance) {
  FakeModel model = gaussian_model();
  const Spectrum before = analyze_weights(model, {});
  for (double& value : model.matrix(Weight::wk, 0).data) {
    value = std::ldexp(static_cast<double>(static_cast<float>(value)), -90);
  }
  const Spectrum after = analyze_weights(model, {});
  EXPECT_EQ(table(after, "asymmetry/A_KV").values[0], table(before, "asymmetry/A_KV").values[0])
      << "a power of two changes nothing, however small the weights";
  EXPECT_EQ(std::ldexp(table(after, "metrics/layer/sigma_max").values[1], 90),
            table(before, "metrics/layer/sigma_max").values[1]);
  EXPECT_EQ(table(after, "metrics/head/k/participation_ratio").values[0],
            table(before, "metrics/head/k/participation_ratio").values[0]);
}

TEST(AnalyzeWeights, GaussianHeadsShowNoAsymmetry) {
  FakeModel model(3, 9, 3, 64, 576);
  model.fill(11);
  const Spectrum s = analyze_weights(model, {});
  const double spread = table(s, "asymmetry/A_KV_head_null_sd").values[0];
  EXPECT_NEAR(spread, 0.005, 0.002) << "specs/spectral.md 4.1";
  for (const double a : table(s, "asymmetry/A_KV_head").values) {
    EXPECT_LT(std::abs(a), 4 * spread);
  }
  for (const double relative : table(s, "metrics/layer/participation_ratio_rel").values) {
    EXPECT_NEAR(relative, 1, 0.01)
        << "square W_Q and wide W_K alike, once the shape is divided out";
  }
  for (const double relative : table(s, "metrics/layer/erank_energy_rel").values) {
    EXPECT_NEAR(relative, 1, 0.01);
  }
}

TEST(AnalyzeWeights, ConcentratedKeysMakeAPositiveIndex) {
  FakeModel model = gaussian_model();
  std::vector<double> singular(16);
  for (std::size_t i = 0; i < 16; ++i) {
    singular[i] = std::pow(static_cast<double>(i) + 1, -1.0);
  }
  model.set(Weight::wk, 0, with_spectrum(16, 32, singular, 9));
  std::vector<double> flat(16, 0.5);
  model.set(Weight::wv, 0, with_spectrum(16, 32, flat, 19));
  const Spectrum s = analyze_weights(model, {});
  double sum = 0;
  double squares = 0;
  for (const double value : singular) {
    sum += value * value;
    squares += std::pow(value, 4);
  }
  EXPECT_NEAR(table(s, "asymmetry/A_KV").values[0], std::log(16.0) - std::log(sum * sum / squares),
              1e-5);
  EXPECT_GT(table(s, "asymmetry/A_KV_bounded").values[0], 0);
  EXPECT_NEAR(table(s, "asymmetry/norm_ratio").values[0], std::sqrt(sum / 4.0), 1e-6);
  EXPECT_NEAR(table(s, "asymmetry/sigma_ratio").values[0], 2, 1e-6);
  EXPECT_LE(table(s, "asymmetry/A_KV_head_q25").values[0],
            table(s, "asymmetry/A_KV_head_q75").values[0]);
}

TEST(AnalyzeWeights, EachBadMatrixGetsItsStatus) {
  FakeModel model(2, 4, 2, 8, 32);
  model.fill(1);
  model.matrix(Weight::wq, 0).at(3, 5) = std::numeric_limits<double>::quiet_NaN();
  model.matrix(Weight::wq, 0).at(4, 0) = std::numeric_limits<double>::infinity();
  model.remove(Weight::wk, 0);
  model.set(Weight::wv, 0, Matrix(16, 32));
  model.set(Weight::wo, 0, gaussian(32, 30, 4));
  model.refuse(Weight::wq, 1, ErrorCode::unsupported);
  const Spectrum s = analyze_weights(model, {});
  EXPECT_EQ(s.status, (std::vector<SpectrumStatus>{
                          SpectrumStatus::nonfinite, SpectrumStatus::missing, SpectrumStatus::zero,
                          SpectrumStatus::bad_shape, SpectrumStatus::unsupported_dtype,
                          SpectrumStatus::ok, SpectrumStatus::ok, SpectrumStatus::ok}));
  EXPECT_EQ(s.message[0], "2 entries are NaN or infinite, first at row 3, column 5");
  EXPECT_NE(s.message[4].find("IQ2_XXS"), std::string::npos);
  EXPECT_TRUE(std::isnan(table(s, "spectrum/layer/q/eigenvalues").values[0]));
  EXPECT_TRUE(std::isnan(table(s, "metrics/layer/rank_numeric").values[0])) << "NaN, not rank 0";
  EXPECT_EQ(table(s, "spectrum/layer/v/eigenvalues").values[0], 0);
  EXPECT_EQ(table(s, "metrics/layer/rank_numeric").values[2], 0);
  EXPECT_TRUE(std::isnan(table(s, "metrics/layer/stable_rank").values[2]));
  EXPECT_TRUE(std::isnan(table(s, "asymmetry/A_KV").values[0]));
  EXPECT_FALSE(std::isnan(table(s, "metrics/layer/stable_rank").values[3]))
      << "the layer, without heads";
  EXPECT_TRUE(std::isnan(table(s, "metrics/head/o/stable_rank").values[0]));
  EXPECT_FALSE(std::isnan(table(s, "asymmetry/A_KV").values[1])) << "the others are still done";
}

TEST(AnalyzeWeights, RankDeficientIsNormal) {
  FakeModel model(1, 4, 2, 8, 32);
  model.fill(1);
  model.set(Weight::wk, 0, with_spectrum(16, 32, {3, 2, 1}, 6));
  const Spectrum s = analyze_weights(model, {});
  EXPECT_EQ(s.status[1], SpectrumStatus::ok);
  EXPECT_EQ(table(s, "metrics/layer/rank_storage").values[1], 3)
      << "float32 rounding hides the rest";
  EXPECT_NEAR(table(s, "metrics/layer/stable_rank").values[1], 14.0 / 9, 1e-5);
}

TEST(AnalyzeWeights, SameBytesForAnyThreadCount) {
  FakeModel model(3, 9, 3, 32, 288);
  model.fill(21);
  SpectralOptions one;
  SpectralOptions four;
  four.threads = 4;
  const Spectrum a = analyze_weights(model, one);
  const Spectrum b = analyze_weights(model, four);
  ASSERT_EQ(a.tables.size(), b.tables.size());
  for (const auto& [path, left] : a.tables) {
    if (path.starts_with("timing/")) {
      continue;
    }
    const auto& right = table(b, path).values;
    ASSERT_EQ(left.values.size(), right.size());
    for (std::size_t i = 0; i < right.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint64_t>(left.values[i]),
                std::bit_cast<std::uint64_t>(right[i]))
          << path;
    }
  }
}

TEST(AnalyzeWeights, ChosenLayersAndProgress) {
  FakeModel model(4, 4, 2, 8, 32);
  model.fill(2);
  SpectralOptions options;
  options.layers = {3, 1};
  std::vector<int> done;
  options.progress = [&](int layers_done, int total) {
    EXPECT_EQ(total, 2);
    done.push_back(layers_done);
  };
  const Spectrum s = analyze_weights(model, options);
  EXPECT_EQ(s.layers, (std::vector<int>{1, 3}));
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
  options.layers = {4};
  EXPECT_THROW(analyze_weights(model, options), Error);
}

TEST(AnalyzeWeights, StopsWhenAskedAndPassesDamageOn) {
  FakeModel model(4, 4, 2, 8, 32);
  model.fill(2);
  SpectralOptions options;
  options.threads = 2;
  options.progress = [](int, int) { throw Error(ErrorCode::interrupted, "stopped"); };
  EXPECT_THROW(analyze_weights(model, options), Error);
  options.progress = nullptr;
  model.refuse(Weight::wv, 2, ErrorCode::corrupt_file);
  EXPECT_THROW(analyze_weights(model, options), Error);
}

}  // namespace
}  // namespace kvscope
