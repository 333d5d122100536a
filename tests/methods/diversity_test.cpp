#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "method_support.h"
#include "registry/method_pieces.h"

namespace kvscope::testing {
namespace {

using ::testing::ElementsAre;

/// Order of picks among `scores`, whose candidates have these value rows.
std::vector<int> picks(const std::string& options, int slots, const std::vector<float>& scores,
                       const std::vector<float>& rows) {
  const std::vector<Method> methods = parse_methods("knorm | diversity:" + options);
  const Protection none(static_cast<int>(scores.size()));
  return methods[0].pieces().parts.selector->select({scores, none, rows}, slots);
}

const std::vector<float> example{2.0F, 1.9F, 1.0F, 0.8F, -0.5F};
const std::vector<float> example_rows{1, 0, 1, 0.1F, 0, 1, -1, 0.2F, 0.6F, 0.8F};

/// specs/alpha.md section 10.
TEST(Diversity, WorkedExample) {
  const auto order = [](const std::string& options) {
    return picks("base_norm=none,unscaled=true," + options, 3, example, example_rows);
  };
  EXPECT_THAT(order("lambda=0.5"), ElementsAre(0, 1, 3));
  EXPECT_THAT(order("lambda=0"), ElementsAre(0, 1, 2));
  EXPECT_THAT(order("lambda=1"), ElementsAre(0, 3, 1));
  EXPECT_THAT(order("lambda=0.5,clip=zero"), ElementsAre(0, 1, 2));
}

/// Two picks: the largest of one is the sum of one.
TEST(Diversity, MaximumAndSumAgreeForTwoPicks) {
  for (const char* lambda : {"0.1", "0.5", "2"}) {
    const std::string options = std::string("lambda=") + lambda;
    EXPECT_EQ(picks(options, 2, example, example_rows),
              picks(options + ",agg=sum", 2, example, example_rows));
  }
}

TEST(Diversity, EqualValuesAndSquareOnesLeaveTheOrderAlone) {
  const std::vector<float> equal{1, 2, 1, 2, 1, 2, 1, 2, 1, 2};
  EXPECT_THAT(picks("lambda=5", 4, example, equal), ElementsAre(0, 1, 2, 3));
  const std::vector<float> square{3, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1,
                                  0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 5};
  EXPECT_THAT(picks("lambda=5", 4, example, square), ElementsAre(0, 1, 2, 3));
}

TEST(Diversity, ALargeLambdaIsFarthestFirst) {
  // East, north-east, north, west: after east, west (-1), then north (0 to both), then the rest.
  EXPECT_THAT(picks("lambda=1000", 4, {4, 3, 2, 1}, {1, 0, 1, 1, 0, 1, -1, 0}),
              ElementsAre(0, 3, 2, 1));
}

TEST(Diversity, ScaleOfValuesAndShiftOfScoresDoNotMatter) {
  FakeRun run = generated_run({1, 2, 2, 40, 8, 8}, 31);
  const std::vector<int> before = kept(decided(run, "knorm | diversity", "12"), 0, 1);
  run.tables(0).values = run.tables(0).values * 4;
  EXPECT_EQ(kept(decided(run, "knorm | diversity", "12"), 0, 1), before);
  std::vector<float> shifted = example;
  for (float& score : shifted) {
    score += 8;
  }
  EXPECT_EQ(picks("lambda=0.5", 3, shifted, example_rows),
            picks("lambda=0.5", 3, example, example_rows));
}

/// Section 9.1: the base path, in the base's order, whatever the options.
TEST(Diversity, LambdaZeroIsTopK) {
  FakeRun run = generated_run({3, 4, 2, 50, 8, 8}, 33);
  for (const char* base : {"knorm", "snapkv:window=4", "laprox:window=4", "keydiff | adakv"}) {
    const Decision plain = decided(run, base, "15");
    for (const char* more :
         {"", ",agg=sum", ",base_norm=none", ",objective=fl,space=k_post_rope"}) {
      const Decision zero = decided(run, std::string(base) + " | diversity:lambda=0" + more, "15");
      for (std::size_t layer = 0; layer < plain.layers.size(); ++layer) {
        EXPECT_EQ(plain.layers[layer].fate, zero.layers[layer].fate);
        EXPECT_EQ(plain.layers[layer].reason, zero.layers[layer].reason);
      }
    }
  }
  const Method base = std::move(parse_methods("knorm").front());
  const Method zero = std::move(parse_methods("knorm | diversity:lambda=0").front());
  const Protection none(5);
  const HeadScores head{example, none, {}};
  EXPECT_EQ(base.pieces().parts.selector->select(head, 4),
            zero.pieces().parts.selector->select(head, 4));
}

TEST(Diversity, FewerPicksAreAPrefixOfMore) {
  FakeRun run = generated_run({1, 1, 1, 60, 8, 8}, 35);
  const std::unique_ptr<LayerEvidence> evidence = run.layer(0);
  const at::Tensor rows = evidence->values().contiguous();
  const at::Tensor norms = evidence->key_norm().contiguous();
  std::vector<float> scores(norms.const_data_ptr<float>(), norms.const_data_ptr<float>() + 60);
  const std::vector<float> flat(rows.const_data_ptr<float>(), rows.const_data_ptr<float>() + 480);
  for (const char* options : {"lambda=0.5", "lambda=2,agg=mean", "lambda=0.3,agg=sum",
                              "lambda=1,agg=sum,clip=zero", "lambda=1,objective=fl"}) {
    const std::vector<int> all = picks(options, 60, scores, flat);
    const auto highest = std::max_element(scores.begin(), scores.end()) - scores.begin();
    EXPECT_TRUE(all[0] == highest || std::string(options).ends_with("fl")) << options;
    std::vector<int> sorted = all;
    std::sort(sorted.begin(), sorted.end());
    for (int token = 0; token < 60; ++token) {
      EXPECT_EQ(sorted[static_cast<std::size_t>(token)], token);
    }
    for (const int count : {1, 7, 33, 59}) {
      const std::vector<int> some = picks(options, count, scores, flat);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << options << " " << count;
    }
  }
}

TEST(Diversity, AListOfLambdasIsDecidedInOneCall) {
  FakeRun run = generated_run({2, 4, 2, 50, 8, 8}, 37);
  const std::vector<Method> sweep =
      parse_methods("snapkv:window=4 | diversity:lambda=0,0.25,0.5,1");
  ASSERT_EQ(sweep.size(), 4U);
  run.layers_asked = 0;
  const std::vector<Decision> decisions = decide_all(run, sweep, {Budget::of_slots(12)});
  EXPECT_EQ(run.layers_asked, 2);
  EXPECT_EQ(decisions[0].layers[0].fate, decided(run, "snapkv:window=4", "12").layers[0].fate);
  EXPECT_NE(decisions[3].layers[0].fate, decisions[0].layers[0].fate);
}

TEST(Diversity, ABaseWithoutAScaleNeedsAWord) {
  expect_error([] { parse_methods("knorm | diversity:base_norm=none"); }, ErrorCode::usage,
               "unscaled=true");
  EXPECT_EQ(parse_methods("knorm | diversity:base_norm=none,lambda=0").size(), 1U);
  expect_error([] { parse_methods("knorm | diversity:lambda=-0.5"); }, ErrorCode::usage,
               "out of range");
}

/// Three equal keys and one square to them, equal scores. Of the newest copy similar to it each key
/// takes no note: token 0 is seen by 1 and 2, token 1 by 0 alone, token 2 by none.
TEST(Redundancy, RepeatedKeysAreMarkedDownNewestCopiesLess) {
  const std::vector<float> rows{1, 0, 2, 0, 3, 0, 0, 1};
  const std::vector<float> equal{7, 7, 7, 7};
  const auto order = [&](const std::string& options, const std::vector<float>& scores) {
    const std::vector<Method> methods = parse_methods("knorm | redundancy:" + options);
    const Protection none(4);
    return methods[0].pieces().parts.selector->select({scores, none, rows}, 4);
  };
  EXPECT_THAT(order("mix=0.5", equal), ElementsAre(2, 3, 1, 0));
  EXPECT_THAT(order("mix=1", equal), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(order("mix=0.99", {4, 3, 2, 1}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(order("mix=0", {4, 3, 2, 1}), ElementsAre(2, 3, 1, 0));
}

TEST(Redundancy, AMixOfOneIsTopKBitForBit) {
  FakeRun run = generated_run({2, 4, 2, 50, 8, 8}, 39);
  for (const char* base : {"knorm", "snapkv:window=4"}) {
    const Decision plain = decided(run, base, "15");
    const Decision one = decided(run, std::string(base) + " | redundancy:mix=1", "15");
    const Decision half = decided(run, std::string(base) + " | redundancy", "15");
    EXPECT_EQ(plain.layers[1].fate, one.layers[1].fate);
    EXPECT_NE(plain.layers[1].fate, half.layers[1].fate);
  }
}

}  // namespace
}  // namespace kvscope::testing
