#include "kvscope/spectral/homogeneity.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>

#include "kvscope/core/decision.h"
#include "kvscope/spectral/analyze.h"
#include "kvscope/spectral/claims.h"
#include "kvscope/spectral/merging.h"
#include "made_capture.h"

namespace kvscope {
namespace {

using namespace made;

double mean_cosine(const std::vector<float>& rows, int head, int count, int skip) {
  double sum = 0;
  for (int t = skip; t + 1 < count; ++t) {
    const float* a = rows.data() + (head * count + t) * dim;
    const float* b = a + dim;
    double ab = 0;
    double aa = 0;
    double bb = 0;
    for (int i = 0; i < dim; ++i) {
      ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
      bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    sum += ab / std::sqrt(aa * bb);
  }
  return sum / (count - 1 - skip);
}

const SpectrumTable& table(const Spectrum& s, const std::string& path) {
  static const SpectrumTable none;
  const SpectrumTable* found = s.find(path);
  EXPECT_NE(found, nullptr) << path;
  return found == nullptr ? none : *found;
}

class Homogeneity : public ::testing::Test {
 protected:
  Spectrum analysed(const CaptureReader& capture, int threads = 1) const {
    Spectrum s = analyze_weights(model_, {});
    HomogeneityOptions options;
    options.corpus = "notes";
    options.threads = threads;
    options.lags = {1, 3};
    add_homogeneity(model_, capture, options, s);
    return s;
  }
  FakeModel model_ = made_model();
};

TEST_F(Homogeneity, MeasuresWhatWasCaptured) {
  const MadeCapture made(model_, model_.hash());
  const Spectrum s = analysed(made.open());
  for (int layer = 0; layer < layers; ++layer) {
    const auto row = static_cast<std::size_t>(layer);
    for (int head = 0; head < kv_heads; ++head) {
      EXPECT_NEAR(table(s, "homogeneity/notes/k/cos_adj_mean")
                      .values[row * kv_heads + static_cast<std::size_t>(head)],
                  mean_cosine(made.keys_before[row], head, tokens, 4), 1e-12);
    }
    for (int head = 0; head < query_heads; ++head) {
      EXPECT_NEAR(table(s, "homogeneity/notes/q/cos_adj_mean")
                      .values[row * query_heads + static_cast<std::size_t>(head)],
                  mean_cosine(made.queries[row], head, tokens - first_query, 0), 1e-6)
          << "queries were stored after RoPE and are turned back";
    }
  }
  EXPECT_EQ(table(s, "homogeneity/notes/k/n_pairs").values[0], tokens - 5);
  EXPECT_EQ(table(s, "homogeneity/notes/q/n_pairs").values[0], tokens - first_query - 1);
}

TEST_F(Homogeneity, LagsGainAndOutputSpectrum) {
  const MadeCapture made(model_, model_.hash());
  const Spectrum s = analysed(made.open());
  const SpectrumTable& lags = table(s, "homogeneity/notes/k/cos_lag_mean");
  ASSERT_EQ(lags.shape, (std::vector<int>{layers, kv_heads, 2}));
  EXPECT_EQ(s.attributes.at("homogeneity/notes/k/cos_lag_mean").at("lags"),
            SpectrumAttribute(std::vector<double>{1, 3}));
  const SpectrumTable& adjacent = table(s, "homogeneity/notes/k/cos_adj_mean");
  const SpectrumTable& square = table(s, "homogeneity/notes/k/mean_square");
  const SpectrumTable& output = table(s, "homogeneity/notes/k/eigenvalues_output");
  for (std::size_t head = 0; head < adjacent.values.size(); ++head) {
    EXPECT_NEAR(lags.values[2 * head], adjacent.values[head], 1e-12);
    EXPECT_LT(lags.values[2 * head + 1], lags.values[2 * head]) << "inputs forget by 0.7 a step";
    EXPECT_NEAR(table(s, "homogeneity/notes/k/gain_ratio").values[head] *
                    table(s, "metrics/head/k/fro2").values[head],
                square.values[head], 1e-9 * square.values[head]);
    double trace = 0;
    for (std::size_t mode = head * dim; mode < (head + 1) * dim; ++mode) {
      EXPECT_TRUE(mode == head * dim || output.values[mode] <= output.values[mode - 1]);
      trace += output.values[mode];
    }
    EXPECT_NEAR(trace, square.values[head], 1e-9 * square.values[head]);
  }
}

TEST_F(Homogeneity, ContributionsAddUpByHeadAndLayer) {
  const MadeCapture made(model_, model_.hash());
  const Spectrum s = analysed(made.open());
  for (const std::string p : {"q", "k", "v"}) {
    for (const std::string group : {"homogeneity/notes/", "homogeneity/notes_post_rope/"}) {
      const SpectrumTable& c = table(s, group + p + "/mode_contribution");
      const SpectrumTable& cosine = table(s, group + p + "/cos_adj_mean");
      for (std::size_t head = 0; head < cosine.values.size(); ++head) {
        const auto first = c.values.begin() + static_cast<std::ptrdiff_t>(head * dim);
        EXPECT_NEAR(std::accumulate(first, first + dim, 0.0), cosine.values[head], 1e-12);
      }
      const SpectrumTable& modes = table(s, group + p + "/layer_mode_contribution");
      const auto width = static_cast<std::size_t>(modes.shape[1]);
      for (std::size_t layer = 0; layer < layers; ++layer) {
        const auto first = modes.values.begin() + static_cast<std::ptrdiff_t>(layer * width);
        EXPECT_NEAR(std::accumulate(first, first + static_cast<std::ptrdiff_t>(width), 0.0),
                    table(s, group + p + "/layer_cos_adj_mean").values[layer], 1e-12);
      }
    }
  }
}

TEST_F(Homogeneity, RopeIsPredictedFromBeforeIt) {
  const MadeCapture made(model_, model_.hash());
  const Spectrum s = analysed(made.open());
  for (const std::string p : {"q", "k"}) {
    const auto& predicted = table(s, "homogeneity/notes_post_rope/" + p + "/pred_from_pre").values;
    const auto& measured = table(s, "homogeneity/notes_post_rope/" + p + "/pred_T2").values;
    for (std::size_t i = 0; i < measured.size(); ++i) {
      EXPECT_NEAR(predicted[i], measured[i], 1e-6) << p;
    }
  }
  EXPECT_EQ(table(s, "homogeneity/notes_post_rope/v/cos_adj_mean").values,
            table(s, "homogeneity/notes/v/cos_adj_mean").values);
}

TEST_F(Homogeneity, TheSameForAnyNumberOfThreads) {
  const MadeCapture made(model_, model_.hash());
  const CaptureReader capture = made.open();
  const Spectrum a = analysed(capture, 1);
  const Spectrum b = analysed(capture, 3);
  for (const auto& [path, left] : a.tables) {
    if (path.starts_with("homogeneity/")) {
      EXPECT_EQ(left.values.size(), table(b, path).values.size());
      for (std::size_t i = 0; i < left.values.size(); ++i) {
        ASSERT_TRUE(left.values[i] == table(b, path).values[i] || std::isnan(left.values[i]))
            << path;
      }
    }
  }
}

TEST_F(Homogeneity, AnotherModelsCaptureIsRefused) {
  const MadeCapture made(model_, "ffffffffffffffff");
  try {
    analysed(made.open());
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    EXPECT_NE(error.message().find("another model"), std::string::npos);
  }
}

TEST_F(Homogeneity, ACaptureWithoutTensorsNamesTheProfile) {
  const MadeCapture made(model_, model_.hash(), false);
  try {
    analysed(made.open());
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::missing_data);
    EXPECT_NE(error.fix().find("--profile qkv"), std::string::npos);
  }
}

TEST_F(Homogeneity, MissingWeightsLeaveTheCosines) {
  model_.remove(Weight::wk, 1);
  const MadeCapture made(made_model(), model_.hash());
  const Spectrum s = analysed(made.open());
  EXPECT_TRUE(std::isfinite(table(s, "homogeneity/notes/k/cos_adj_mean").values[kv_heads]));
  EXPECT_TRUE(std::isnan(table(s, "homogeneity/notes/k/mode_contribution").values[kv_heads * dim]));
  EXPECT_TRUE(std::isfinite(table(s, "homogeneity/notes/k/mode_contribution").values[0]));
}

Decision pair_decision(const CaptureReader& capture, float key_weight) {
  Decision decision;
  decision.method = "by hand";
  decision.capture_hash = capture.index().capture_hash;
  decision.query_heads = query_heads;
  decision.kv_heads = kv_heads;
  decision.head_dim = dim;
  decision.tokens = decision.cut_tokens = tokens;
  decision.form.keys = Frame::pre_rope;
  LayerDecision layer = LayerDecision::keep_all(0, kv_heads, tokens);
  for (int token = 10; token < 50; token += 2) {
    for (const auto& [source, weight] :
         {std::pair(token, 1 - key_weight), std::pair(token + 1, key_weight)}) {
      MergeEdge edge;
      edge.source = source;
      edge.target = token;
      edge.key_weight = weight;
      edge.value_weight = 1;
      layer.edges.push_back(edge);
    }
  }
  decision.layers.push_back(layer);
  return decision;
}

TEST_F(Homogeneity, MergeLossByHandAndPredicted) {
  const MadeCapture made(model_, model_.hash());
  const CaptureReader capture = made.open();
  Spectrum s = analysed(capture);
  add_merge_loss(capture, pair_decision(capture, 0.25F), "notes", "pairs", s);
  double lost = 0;
  double energy = 0;
  for (int token = 10; token < 50; token += 2) {
    const float* a = made.keys_before[0].data() + token * dim;
    for (int i = 0; i < dim; ++i) {
      const double x = a[i];
      const double y = a[dim + i];
      // m = 3/4 x + 1/4 y: losses (x - y)^2 / 16 and 9 (x - y)^2 / 16.
      lost += (x - y) * (x - y) * 10 / 16;
      energy += x * x + y * y;
    }
  }
  EXPECT_NEAR(table(s, "merging/pairs/k/actual").values[0], lost / energy, 1e-6);
  const double cosine = table(s, "homogeneity/notes/k/pred_T2").values[0];
  EXPECT_NEAR(table(s, "merging/pairs/k/predicted").values[0], (1 - cosine) * 10 / 16, 1e-12)
      << "E |x - y|^2 = 2 A (1 - cos), over 2 A";
  EXPECT_EQ(table(s, "merging/pairs/merged_tokens").values[0], 40);
  EXPECT_TRUE(std::isnan(table(s, "merging/pairs/k/actual").values[1])) << "head 1 merged nothing";
  EXPECT_NEAR(table(s, "merging/pairs/v/predicted").values[0],
              (1 - table(s, "homogeneity/notes/v/pred_T2").values[0]) / 2, 1e-12)
      << "summed values are halves of their sum";
  EXPECT_GT(table(s, "merging/pairs/v/actual").values[0], 0);
}

TEST_F(Homogeneity, MergeLossRefusesWhatDoesNotFit) {
  const MadeCapture made(model_, model_.hash());
  const CaptureReader capture = made.open();
  Spectrum weights = analyze_weights(model_, {});
  EXPECT_THROW(add_merge_loss(capture, pair_decision(capture, 0.5F), "notes", "pairs", weights),
               Error)
      << "no tokens stage";
  Spectrum s = analysed(capture);
  Decision other = pair_decision(capture, 0.5F);
  other.capture_hash = "0";
  EXPECT_THROW(add_merge_loss(capture, other, "notes", "pairs", s), Error);
  other = pair_decision(capture, 0.5F);
  other.kv_heads = 3;
  EXPECT_THROW(add_merge_loss(capture, other, "notes", "pairs", s), Error);
}

TEST_F(Homogeneity, ClaimsHaveData) {
  const MadeCapture made(model_, model_.hash());
  Spectrum s = analysed(made.open());
  add_claims(0, s);
  for (const SpectrumClaim& claim : s.claims) {
    EXPECT_GT(claim.count, 0) << claim.name;
    EXPECT_TRUE(claim.p > 0 && claim.p <= 1) << claim.name;
  }
}

}  // namespace
}  // namespace kvscope
