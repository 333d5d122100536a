#include "statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fake_model.h"
#include "kvscope/core/spectrum.h"
#include "kvscope/spectral/analyze.h"
#include "kvscope/spectral/claims.h"

namespace kvscope::spectral {
namespace {

TEST(Statistics, ByHand) {
  EXPECT_EQ(ranks({3, 1, 3, 2}), (std::vector<double>{2.5, 0, 2.5, 1}));
  EXPECT_NEAR(correlation({1, 2, 3}, {2, 4, 6}), 1, 1e-15);
  EXPECT_NEAR(rank_correlation({1, 2, 3, std::nan("")}, {9, 4, 1, 7}), -1, 1e-15);
  EXPECT_TRUE(std::isnan(correlation({1, 1}, {1, 2})));
  EXPECT_NEAR(wilson(9, 10).low, 0.5958, 1e-4) << "the textbook's interval";
  EXPECT_NEAR(wilson(9, 10).high, 0.9821, 1e-4);
  EXPECT_NEAR(wilson(10, 10).high, 1, 1e-12);
  EXPECT_TRUE(std::isnan(wilson(0, 0).low));
  EXPECT_NEAR(sign_test(9, 10), 11.0 / 1024, 1e-12) << "one or no tail among ten coins";
  EXPECT_NEAR(sign_test(0, 10), 1, 1e-12);
  EXPECT_EQ(quantile({1, 2, 3, 4, std::nan("")}, 0.5), 2.5);
}

TEST(Statistics, PermutationsFindADependenceAndMissNone) {
  std::vector<double> a;
  std::vector<double> b;
  std::vector<double> noise;
  Gauss gauss(3);
  for (int i = 0; i < 40; ++i) {
    a.push_back(i);
    b.push_back(i + 6 * gauss());
    noise.push_back(gauss());
  }
  EXPECT_NEAR(permutation_p(a, b, 2000, 1), 1.0 / 2001, 1e-12) << "never 0";
  EXPECT_GT(permutation_p(a, noise, 2000, 1), 0.01);
  EXPECT_GT(permutation_p(a, std::vector<double>(a.rbegin(), a.rend()), 2000, 1), 0.99);
  EXPECT_TRUE(std::isnan(permutation_p(a, std::vector<double>(40, 1.0), 100, 1)));
}

const SpectrumClaim& claim(const Spectrum& s, const std::string& name) {
  for (const SpectrumClaim& found : s.claims) {
    if (found.name == name) {
      return found;
    }
  }
  static const SpectrumClaim none;
  ADD_FAILURE() << "no claim " << name;
  return none;
}

/// Twelve layers in which one projection has a steep spectrum.
Spectrum analysed(Weight steep) {
  FakeModel model(12, 2, 2, 8, 32);
  model.fill(1);
  std::vector<double> singular;
  for (int i = 0; i < 16; ++i) {
    singular.push_back(std::pow(i + 1.0, -1.0));
  }
  for (int layer = 0; layer < 12; ++layer) {
    model.set(steep, layer, with_spectrum(16, 32, singular, 3 + static_cast<std::uint64_t>(layer)));
  }
  Spectrum s = analyze_weights(model, {});
  add_claims(0, s);
  return s;
}

TEST(Claims, HoldOrFailByTheWeights) {
  const Spectrum keys = analysed(Weight::wk);
  const SpectrumClaim& holds = claim(keys, "v_more_dispersed_by_layer");
  EXPECT_EQ(holds.verdict, "holds");
  EXPECT_EQ(holds.statistic, 1);
  EXPECT_EQ(holds.count, 12);
  EXPECT_NEAR(holds.p, std::pow(0.5, 12), 1e-12);
  EXPECT_EQ(claim(keys, "v_more_dispersed_by_head").count, 24);
  EXPECT_EQ(claim(keys, "q_closer_to_k_than_to_v").verdict, "fails")
      << "Q and V are both Gaussian here";
  const Spectrum values = analysed(Weight::wv);
  EXPECT_EQ(claim(values, "v_more_dispersed_by_layer").verdict, "fails");
  EXPECT_GT(claim(values, "v_more_dispersed_by_layer").p, 0.99);
}

TEST(Claims, GaussianWeightsDecideNothing) {
  FakeModel model(10, 2, 2, 8, 32);
  model.fill(17);
  Spectrum s = analyze_weights(model, {});
  add_claims(0, s);
  EXPECT_EQ(claim(s, "v_more_dispersed_by_layer").verdict, "undecided");
  EXPECT_EQ(claim(s, "k_and_v_rows_aligned").verdict, "undecided");
}

TEST(Claims, WithoutTokensSomeHaveNoData) {
  const Spectrum s = analysed(Weight::wk);
  for (const char* name :
       {"keys_more_alike_than_values", "concentration_predicts_k", "first_order_predicts_v"}) {
    EXPECT_EQ(claim(s, name).verdict, "no data") << name;
    EXPECT_EQ(claim(s, name).count, 0) << name;
  }
}

TEST(Claims, CorrelationsReadTheTokensStage) {
  Spectrum s = analysed(Weight::wk);
  s.attributes["homogeneity/notes"]["rope"] = std::string("pre");
  SpectrumTable table = *s.find("metrics/head/k/participation_ratio_rel");
  for (double& value : table.values) {
    value = 1 / value;
  }
  s.tables["homogeneity/notes/k/cos_adj_mean"] = table;
  for (double& value : table.values) {
    value = -value;
  }
  s.tables["homogeneity/notes/k/pred_T2"] = table;
  add_claims(0, s);
  EXPECT_NEAR(claim(s, "concentration_predicts_k").statistic, 1, 1e-12);
  EXPECT_EQ(claim(s, "concentration_predicts_k").verdict, "holds");
  EXPECT_NEAR(claim(s, "first_order_predicts_k").statistic, -1, 1e-12);
  EXPECT_EQ(claim(s, "first_order_predicts_k").verdict, "fails");
}

}  // namespace
}  // namespace kvscope::spectral
