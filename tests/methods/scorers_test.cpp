#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "method_support.h"

namespace kvscope::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;

const FakeSizes two_heads{1, 2, 2, 6, 2, 2};
const FakeSizes one_group{1, 2, 1, 6, 2, 2};

// clang-format off
const std::vector<float> rows{
    // query head 0
    1,     0,     0,     0,     0,      0,
    .5,    .5,    0,     0,     0,      0,
    .5,    .25,   .25,   0,     0,      0,
    .25,   .25,   .25,   .25,   0,      0,
    .5,    .125,  .125,  .125,  .125,   0,
    .25,   .125,  .375,  .125,  .0625,  .0625,
    // query head 1
    1,     0,     0,     0,     0,      0,
    .25,   .75,   0,     0,     0,      0,
    .25,   .5,    .25,   0,     0,      0,
    .125,  .125,  .5,    .25,   0,      0,
    .125,  .125,  .25,   .25,   .25,    0,
    .0625, .0625, .5,    .125,  .125,   .125};
// clang-format on

TEST(Scorers, ObservedAttentionIsAMeanOverThoseWhoSeeTheToken) {
  FakeRun run = attention_run(two_heads, rows);
  const Decision decision = decided(run, "observed_attention", "2");
  expect_scores(scores(decision, 0, 0), {3.0 / 6, 1.25 / 5, 1.0 / 4, .5 / 3, .1875 / 2, .0625});
  expect_scores(scores(decision, 0, 1),
                {1.8125 / 6, 1.5625 / 5, 1.5 / 4, .625 / 3, .375 / 2, .125});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 1));  // 1 and 2 tie: the lower stays
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(1, 2));
}

TEST(Scorers, ObservedAttentionCountsWhoSeesATokenThroughASlidingWindow) {
  FakeRun run = attention_run(two_heads, rows);
  run.mutable_shape().layer_windows = {2};
  const Decision decision = decided(run, "observed_attention", "2");
  expect_scores(scores(decision, 0, 0), {3.0 / 2, 1.25 / 2, 1.0 / 2, .5 / 2, .1875 / 2, .0625});
}

TEST(Scorers, ObservedAttentionReducesAGroupByTheNamedRule) {
  FakeRun run = attention_run(one_group, rows);
  expect_scores(scores(decided(run, "observed_attention", "2"), 0, 0),
                {(3.0 / 6 + 1.8125 / 6) / 2, (1.25 / 5 + 1.5625 / 5) / 2});
  expect_scores(scores(decided(run, "observed_attention:reduce=max", "2"), 0, 0),
                {3.0 / 6, 1.5625 / 5});
  expect_scores(scores(decided(run, "observed_attention:reduce=sum", "2"), 0, 0),
                {3.0 / 6 + 1.8125 / 6, 1.25 / 5 + 1.5625 / 5});
}

TEST(Scorers, H2oSumsAndProtectsTheNewest) {
  FakeRun run = attention_run(two_heads, rows);
  const Decision decision = decided(run, "h2o:form=prefill_sum", "4");
  expect_scores(scores(decision, 0, 0), {3.0, 1.25, 1.0, .5});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(0, 1, 4, 5));
  EXPECT_EQ(reason(decision, 0, 0, 4), Reason::recent);
  EXPECT_EQ(reason(decision, 0, 0, 0), Reason::score);
  EXPECT_TRUE(std::isnan(scores(decision, 0, 0)[4]));
  EXPECT_THAT(kept(decided(run, "h2o:recent=0", "2"), 0, 1), ElementsAre(0, 1));
  EXPECT_THAT(kept(decided(run, "h2o:recent=1", "2"), 0, 1), ElementsAre(4, 5));
}

TEST(Scorers, TovaAsksTheNewestQueryOfAllHeads) {
  FakeRun run = attention_run(two_heads, rows);
  const Decision decision = decided(run, "tova", "3");
  const std::vector<double> mean{.15625, .09375, .4375, .125, .09375};
  expect_scores(scores(decision, 0, 0), mean);
  expect_scores(scores(decision, 0, 1), mean);
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 2, 5));
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(0, 2, 5));
  EXPECT_EQ(reason(decision, 0, 0, 5), Reason::observation_window);
}

TEST(Scorers, SnapkvLetsTheWindowVoteAndSmoothsAlongTokens) {
  FakeRun run = attention_run(two_heads, rows);
  const Decision decision = decided(run, "snapkv:window=2,pool=3", "4");
  expect_scores(scores(decision, 0, 0), {.5 / 3, .75 / 3, .5 / 3, .375 / 3});
  expect_scores(scores(decision, 0, 1), {.1875 / 3, .5625 / 3, .65625 / 3, .5625 / 3});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(1, 2, 4, 5));
  EXPECT_EQ(reason(decision, 0, 1, 5), Reason::observation_window);
  const Decision peaks = decided(run, "snapkv:window=2,pool=3,pooling=max", "4");
  expect_scores(scores(peaks, 0, 0), {.375, .375, .25, .25});
  expect_scores(scores(peaks, 0, 1), {.09375, .375, .375, .375});
  const Decision plain = decided(run, "snapkv:window=2,pool=1", "4");
  expect_scores(scores(plain, 0, 0), {.375, .125, .25, .125});
}

TEST(Scorers, SnapkvKeepsEverythingWhenThePromptIsTheWindow) {
  FakeRun run = attention_run(two_heads, rows);
  EXPECT_EQ(decided(run, "snapkv:window=6", "6").kept_slots(), 12);
  EXPECT_EQ(decided(run, "snapkv:window=64", "6").kept_slots(), 12);
  expect_error([&] { decided(run, "snapkv:window=6", "5"); }, ErrorCode::usage, "protects 6");
}

TEST(Scorers, StreamingKeepsSinksAndTheNewest) {
  FakeRun run = attention_run(two_heads, rows);
  const Decision decision = decided(run, "streaming_llm:sinks=2", "4");
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 1, 4, 5));
  EXPECT_EQ(reason(decision, 0, 0, 0), Reason::sink);
  EXPECT_EQ(reason(decision, 0, 0, 5), Reason::recent);
  EXPECT_THAT(kept(decided(run, "streaming_llm:sinks=0", "2"), 0, 1), ElementsAre(4, 5));
}

TEST(Scorers, KnormKeepsShortKeys) {
  FakeRun run = attention_run(two_heads, rows);
  run.tables(0).keys =
      table({2, 6, 2}, {3, 4, 0, 1, 2, 0, 0, 7, 1, 1, 9, 0,  // norms 5 1 2 7 1.41 9
                        1, 0, 0, 2, 3, 0, 0, 4, 5, 0, 0, 6});
  const Decision decision = decided(run, "knorm", "3");
  expect_scores(scores(decision, 0, 0), {-5, -1, -2, -7, -std::sqrt(2.0), -9});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(1, 2, 4));
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(0, 1, 2));
}

TEST(Scorers, KeydiffKeepsKeysThatPointElsewhereWhateverTheirLength) {
  FakeRun run = attention_run(two_heads, rows);
  // Directions east x4, north, west; lengths differ. Mean unit key (1/2, 1/6).
  run.tables(0).keys = table({2, 6, 2}, {1, 0, 9, 0, 2, 0, .5, 0, 0, 3, -4, 0,  //
                                         0, 1, 0, 1, 0, 1, 1,  0, 0, 1, 0,  1});
  const Decision decision = decided(run, "keydiff", "2");
  const double length = std::sqrt(1.0 / 4 + 1.0 / 36);
  expect_scores(scores(decision, 0, 0), {-.5 / length, -.5 / length, -.5 / length, -.5 / length,
                                         -1.0 / 6 / length, .5 / length});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(4, 5));
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(0, 3));  // five equal ones: the lowest
}

TEST(Scorers, RandomDrawsByPlaceAndSeedAlone) {
  FakeSizes sizes{2, 2, 2, 200, 2, 2};
  FakeRun run = generated_run(sizes, 1);
  const Decision first = decided(run, "random", "100");
  const std::vector<float> draws = scores(first, 0, 0);
  EXPECT_THAT(draws, Each(Ge(0.0F)));
  EXPECT_LT(*std::max_element(draws.begin(), draws.end()), 1.0F);
  double mean = 0;
  for (const float draw : draws) {
    mean += static_cast<double>(draw) / 200;
  }
  EXPECT_NEAR(mean, 0.5, 0.1);
  EXPECT_EQ(draws, scores(decided(run, "random:seed=0", "7"), 0, 0));
  EXPECT_NE(draws, scores(decided(run, "random:seed=1", "100"), 0, 0));
  EXPECT_NE(draws, scores(first, 0, 1));
  EXPECT_NE(draws, scores(first, 1, 0));
}

TEST(Scorers, FinchWeighsAQuestionsQueriesByTheKeysBeforeThem) {
  FakeRun run = attention_run(two_heads, rows);
  const Decision decision = decided(run, "finch:window=2", "4");
  expect_scores(scores(decision, 0, 0),
                {(.5 * 4 + .25 * 5) / 2, .125 * 9 / 2, (.125 * 4 + .375 * 5) / 2, .125 * 9 / 2});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 2, 4, 5));
  EXPECT_EQ(decision.form.keys, Frame::pre_rope);
  EXPECT_EQ(decision.form.positions, CacheForm::Positions::cache_index);
  const Decision still = decided(run, "finch:window=2,rerotate=false", "4");
  EXPECT_EQ(still.form, CacheForm{});
}

TEST(Scorers, ScissorhandsCountsHowOftenATokenIsIgnored) {
  FakeRun run = attention_run(two_heads, rows);
  // Rows 3, 4 and 5, of 4, 5 and 6 keys: shares below 1/4, 1/5 and 1/6.
  const Decision decision = decided(run, "scissorhands:window=3,recent=1", "3");
  expect_scores(scores(decision, 0, 0), {0, -2, -1, -2, -2});
  expect_scores(scores(decision, 0, 1), {-3, -3, 0, -1, -1});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 2, 5));
  EXPECT_EQ(reason(decision, 0, 0, 5), Reason::recent);
}

TEST(Scorers, CaoteIsTheChangeOfTheOutputIfATokenGoes) {
  FakeRun run = attention_run(two_heads, rows);
  run.tables(0).values =
      table({2, 6, 2}, {4, 0, 0, 4, 1, 1, 0, 0, 2, 0, 0, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0});
  const Decision decision = decided(run, "caote", "2");
  // Head 0, newest row (.25 .125 .375 .125 .0625 .0625): output (1.5, 1). Without token 0:
  // (.5, 1) / .75.
  const double change = std::hypot(1.5 - .5 / .75, 1 - 1 / .75);
  EXPECT_NEAR(scores(decision, 0, 0)[0], change, 1e-6);
}

TEST(Scorers, FullKeepsEverythingWhateverTheBudget) {
  FakeRun run = attention_run(two_heads, rows);
  const Decision decision = decided(run, "full", "1");
  EXPECT_EQ(decision.kept_slots(), 12);
  EXPECT_TRUE(decision.by_method);
  EXPECT_EQ(reason(decision, 0, 0, 0), Reason::within_budget);
}

}  // namespace
}  // namespace kvscope::testing
