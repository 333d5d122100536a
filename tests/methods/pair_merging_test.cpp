#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cadences/chunked_merge.h"
#include "cadences/curvature_blocks.h"
#include "cadences/weighers.h"
#include "given_evidence.h"
#include "kvscope/core/error.h"

namespace kvscope::test {
namespace {

using detail::ChunkView;
using detail::CurvatureBlocks;
using detail::CurvatureOptions;
using detail::MergedRun;
using detail::PairMergeRule;
using detail::PairRanking;
using detail::PairScores;
using Variant = CurvatureOptions::Variant;

ChunkView view_of(const GivenEvidence& evidence, int chunk = 1) {
  return ChunkView(evidence, evidence.table.slots, 0, chunk, 1);
}

void expect_near(const std::vector<double>& found, const std::vector<double>& expected,
                 double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], expected[i], tolerance) << i;
  }
}

// Ranking: four slots, one KV head, token probabilities 0.2 0.05 0.05 0.15 summed over the chunk,
// the third slot stands for two tokens.

GivenEvidence ranked() {
  GivenEvidence evidence(1, 1, 2, {1, 1, 2, 1});
  evidence.mass = given({1, 4}, {0.2, 0.05, 0.1, 0.15});
  return evidence;
}

TEST(PairRankingTest, AsymkvMultipliesByThePairsOwnMultiplicity) {
  const GivenEvidence evidence = ranked();
  const PairScores scores = score_pairs(view_of(evidence), {});
  expect_near(scores.mass, {0.25, 0.15, 0.25}, 1e-7);
  expect_near(scores.decay, {1.001524, 1.003051, 1.004580}, 1e-6);
  expect_near(scores.count, {2, 3, 3}, 0);
  expect_near(scores.score, {0.499239, 0.448631, 0.746581}, 1e-6);
  EXPECT_EQ(detail::cheapest_pairs(scores.score, 1), std::vector<int>{1});
}

TEST(PairRankingTest, KvslimmersConstantReversesTheOthers) {
  const GivenEvidence evidence = ranked();
  const PairScores scores = score_pairs(view_of(evidence), {PairRanking::Count::constant, true});
  expect_near(scores.score, {1.996956, 1.196350, 1.990883}, 1e-6);
  EXPECT_EQ(detail::cheapest_pairs(scores.score, 2), (std::vector<int>{1, 2}));
}

TEST(PairRankingTest, TheLowerPairGoesFirstWhereScoresAreEqual) {
  EXPECT_EQ(detail::cheapest_pairs({2, 1, 1, 1}, 2), (std::vector<int>{1, 2}));
}

TEST(PairRankingTest, GroupsAreAveragedWhereAskedFor) {
  GivenEvidence evidence(4, 2, 2, {1, 1, 1});
  evidence.mass = given({4, 3}, {1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9});
  expect_near(score_pairs(view_of(evidence), {PairRanking::Count::per_pair, true}).mass, {18, 22},
              1e-6);
  expect_near(score_pairs(view_of(evidence), {}).mass, {36, 44}, 1e-6);
}

// Keys by squared gradients.

TEST(SquaredGradientsTest, EachChannelHasItsOwnWeight) {
  GivenEvidence evidence(1, 1, 2, {1, 1});
  evidence.mass = given({1, 2}, {0.1, 0.1});
  evidence.key_rows = given({1, 2, 2}, {1, 2, 3, -1});
  evidence.gradients = given({1, 2, 2}, {0.2, 0.1, 0.1, 0.3});
  const auto weigher = detail::make_squared_gradients(KeyGradient::float32);
  const ChunkView view = view_of(evidence);
  weigher->look(view);
  const MergedRun run = weigher->weigh(view, 0, 0, 2);
  ASSERT_EQ(run.key.size(), 2u);
  EXPECT_NEAR(run.key[0], 1.4, 1e-6);
  EXPECT_NEAR(run.key[1], -0.7, 1e-6);
  expect_near(run.weight, {(0.8 + 0.1) / 2, (0.2 + 0.9) / 2}, 1e-6);
}

TEST(SquaredGradientsTest, WithoutGradientsTheKeyVanishes) {
  GivenEvidence evidence(1, 1, 2, {1, 1});
  evidence.mass = given({1, 2}, {0.1, 0.1});
  evidence.key_rows = given({1, 2, 2}, {1, 2, 3, -1});
  evidence.gradients = at::zeros({1, 2, 2});
  const auto weigher = detail::make_squared_gradients(KeyGradient::float32);
  const ChunkView view = view_of(evidence);
  weigher->look(view);
  EXPECT_EQ(weigher->weigh(view, 0, 0, 2).key, (std::vector<float>{0, 0}));
}

// Curvature: alpha 0.4 0.1 0.2 0.3, V (1,0) (0,1) (1,1) (2,0).

GivenEvidence curved() {
  GivenEvidence evidence(1, 1, 2, {1, 1, 1, 1});
  evidence.mass = given({1, 4}, {0.4, 0.1, 0.2, 0.3});
  evidence.value_rows = given({1, 4, 2}, {1, 0, 0, 1, 1, 1, 2, 0});
  evidence.key_rows = given({1, 4, 2}, {1, 0, 3, 2, 0, 1, 1, 1});
  return evidence;
}

MergedRun weighed(const GivenEvidence& evidence, const CurvatureOptions& options, int pair,
                  int count = 2) {
  const auto weigher = detail::make_curvature(options);
  const ChunkView view = view_of(evidence);
  weigher->look(view);
  return weigher->weigh(view, 0, pair, count);
}

TEST(CurvatureTest, CodeOnTheRegularPair) {
  const GivenEvidence evidence = curved();
  const CurvatureBlocks blocks = detail::residual_proxy(view_of(evidence), 0, false);
  expect_near(blocks.alpha, {0.4, 0.1, 0.2, 0.3}, 1e-7);
  expect_near(blocks.diagonal, {0.040, 0.152, 0.108, 0.132}, 1e-7);
  const std::vector<double> cross = detail::factorised_cross(blocks.alpha, blocks.diagonal);
  expect_near(cross, {0.096, 0.056, 0.12}, 1e-7);
  expect_near(weighed(evidence, {}, 1).weight, {0.648649, 0.351351}, 1e-5);
}

TEST(CurvatureTest, CodeNearTheSingularPairIsFlagged) {
  const GivenEvidence evidence = curved();
  const auto weigher = detail::make_curvature({});
  const ChunkView view = view_of(evidence);
  weigher->look(view);
  const MergedRun run = weigher->weigh(view, 0, 0, 2);
  EXPECT_GT(std::abs(run.weight[0]), 1e3);
  EXPECT_EQ(weigher->remarks()[0], (std::pair<std::string, std::int64_t>{"singular_pairs", 1}));
  EXPECT_EQ(weigher->remarks()[1].second, 1);
  CurvatureOptions safe;
  safe.safe = true;
  const MergedRun clamped = weighed(evidence, safe, 0);
  EXPECT_GE(clamped.weight[0], 0);
  EXPECT_LE(clamped.weight[0], 1);
}

TEST(CurvatureTest, PaperOnBothPairs) {
  const GivenEvidence evidence = curved();
  const CurvatureBlocks blocks = detail::hessian_norms(view_of(evidence), 0);
  expect_near(blocks.diagonal, {0.028844, 0.111140, 0.087361, 0.102528}, 1e-5);
  EXPECT_NEAR(blocks.cross[0], 0.058241, 1e-5);
  EXPECT_NEAR(blocks.cross[1], 0.039598, 1e-5);
  CurvatureOptions paper;
  paper.variant = Variant::paper;
  EXPECT_NEAR(weighed(evidence, paper, 1).weight[0], 0.599653, 1e-5);
  EXPECT_NEAR(weighed(evidence, paper, 0).weight[0], -1.2508, 1e-4);
}

TEST(CurvatureTest, MergedHistoryIsTheSquaredMixture) {
  // The merged slot's curvature shows as history at the next chunk, whose own is worth half.
  GivenEvidence evidence = curved();
  const auto weigher = detail::make_curvature({});
  const ChunkView first = view_of(evidence);
  weigher->look(first);
  weigher->weigh(first, 0, 1, 2);  // slots 1 and 2
  const ChunkView again = view_of(evidence, 2);
  weigher->look(again);
  // Pair (1, 2) again, with hbar_1 = (0.152 + 0.0772856) / 2 and the others unchanged.
  const double h1 = (0.152 + 0.0772856) / 2;
  const double cross = 0.2 * h1 / 0.8 + 0.1 * 0.108 / 0.6;
  const double a = (h1 - cross) / (h1 + 0.108 - 2 * cross);
  EXPECT_NEAR(weigher->weigh(again, 0, 1, 2).weight[0], a, 1e-5);
}

TEST(CurvatureTest, EqualDeviationsLeaveAttentionAlone) {
  // d_1 = d_2 and alpha_1 + alpha_2 < 1/2: the weight is the share of attention, exactly.
  GivenEvidence evidence(1, 1, 2, {1, 1, 1, 1});
  evidence.mass = given({1, 4}, {0.1, 0.2, 0.35, 0.35});
  evidence.value_rows = given({1, 4, 2}, {1, 0, 1, 0, 2, 5, 2, -4});
  expect_near(weighed(evidence, {}, 0).weight, {1.0 / 3, 2.0 / 3}, 1e-6);
}

TEST(CurvatureTest, ScalingValuesOrAttentionChangesNothing) {
  GivenEvidence evidence = curved();
  const double before = weighed(evidence, {}, 1).weight[0];
  evidence.value_rows.mul_(7);
  evidence.mass.mul_(3);
  EXPECT_NEAR(weighed(evidence, {}, 1).weight[0], before, 1e-6);
}

TEST(CurvatureTest, SwappingTheSlotsSwapsTheWeights) {
  GivenEvidence evidence = curved();
  const MergedRun before = weighed(evidence, {}, 1);
  evidence.mass = given({1, 4}, {0.4, 0.2, 0.1, 0.3});
  evidence.value_rows = given({1, 4, 2}, {1, 0, 1, 1, 0, 1, 2, 0});
  const MergedRun after = weighed(evidence, {}, 1);
  EXPECT_NEAR(before.weight[0], after.weight[1], 1e-6);
  EXPECT_NEAR(std::accumulate(after.weight.begin(), after.weight.end(), 0.0), 1, 1e-9);
}

TEST(CurvatureTest, MeansCountMultiplicitiesOnce) {
  GivenEvidence evidence = curved();
  evidence.table.multiplicity = {1, 2, 1, 1};
  evidence.value_rows.select(1, 1).mul_(2);  // the sum of two tokens like the one before
  const CurvatureBlocks means = detail::residual_proxy(view_of(evidence), 0, true);
  expect_near(means.diagonal, {0.040, 0.152, 0.108, 0.132}, 1e-7);
  const CurvatureBlocks sums = detail::residual_proxy(view_of(evidence), 0, false);
  EXPECT_GT(sums.diagonal[1], 1.2 * means.diagonal[1]);
}

TEST(CurvatureTest, DuplicatedHeadsOfAGroupChangeNothing) {
  const GivenEvidence one = curved();
  GivenEvidence two(2, 1, 2, {1, 1, 1, 1});
  two.mass = one.mass.repeat({2, 1});
  two.value_rows = one.value_rows;
  EXPECT_NEAR(weighed(one, {}, 1).weight[0], weighed(two, {}, 1).weight[0], 1e-9);
}

TEST(CurvatureTest, GradientBlocksAreTheSecondDerivativesOfTheOutput) {
  // o(x) = softmax(x) V; c_ij by central differences of E . o in the logits.
  const std::vector<double> share = {0.4, 0.1, 0.2, 0.3};
  const std::vector<std::vector<double>> values = {{1, 0}, {0, 1}, {1, 1}, {2, 0}};
  const std::vector<double> error = {0.7, -1.3};
  const auto loss = [&](int i, int j, double a, double b) {
    std::vector<double> weight(4);
    double total = 0;
    for (int slot = 0; slot < 4; ++slot) {
      const double shift = (slot == i ? a : 0) + (slot == j ? b : 0);
      weight[static_cast<std::size_t>(slot)] =
          share[static_cast<std::size_t>(slot)] * std::exp(shift);
      total += weight[static_cast<std::size_t>(slot)];
    }
    double result = 0;
    for (std::size_t slot = 0; slot < 4; ++slot) {
      result += weight[slot] / total * (error[0] * values[slot][0] + error[1] * values[slot][1]);
    }
    return result;
  };
  GivenEvidence evidence(1, 1, 2, {1, 1, 1, 1, 1});
  evidence.mass = given({1, 5}, {0.4, 0.1, 0.2, 0.3, 0});
  evidence.rows = evidence.mass.view({1, 1, 5});
  evidence.value_rows = given({1, 5, 2}, {1, 0, 0, 1, 1, 1, 2, 0, 9, 9});
  evidence.errors = given({1, 1, 2}, error);
  const CurvatureBlocks blocks = detail::gradient_blocks(ChunkView(evidence, 4, 0, 1, 1), 0);
  constexpr double h = 1e-4;
  for (int slot = 0; slot < 4; ++slot) {
    const double second =
        (loss(slot, -1, h, 0) - 2 * loss(slot, -1, 0, 0) + loss(slot, -1, -h, 0)) / (h * h);
    EXPECT_NEAR(blocks.diagonal[static_cast<std::size_t>(slot)], second, 1e-6) << slot;
  }
  for (int pair = 0; pair < 3; ++pair) {
    const double mixed = (loss(pair, pair + 1, h, h) - loss(pair, pair + 1, h, -h) -
                          loss(pair, pair + 1, -h, h) + loss(pair, pair + 1, -h, -h)) /
                         (4 * h * h);
    EXPECT_NEAR(blocks.cross[static_cast<std::size_t>(pair)], -mixed, 1e-6) << pair;
  }
}

TEST(CurvatureTest, AWholeRunIsWeighedByItsPairsRatios) {
  GivenEvidence evidence(1, 1, 2, {1, 1, 1, 1, 1});
  evidence.mass = given({1, 5}, {0.1, 0.12, 0.15, 0.13, 0.5});
  evidence.value_rows = given({1, 5, 2}, {1, 0, 0, 1, 1, 1, 2, 0, 0, 0});
  const std::vector<double> second = weighed(evidence, {}, 1).weight;
  const std::vector<double> third = weighed(evidence, {}, 2).weight;
  const std::vector<double> all = weighed(evidence, {}, 1, 3).weight;
  ASSERT_EQ(all.size(), 3u);
  EXPECT_NEAR(all[0] + all[1] + all[2], 1, 1e-12);
  EXPECT_NEAR(all[1] / all[0], second[1] / second[0], 1e-6);
  EXPECT_NEAR(all[2] / all[1], third[1] / third[0], 1e-6);
}

}  // namespace
}  // namespace kvscope::test
