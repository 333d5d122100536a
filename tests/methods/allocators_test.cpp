#include "allocators/allocators.h"

#include <gtest/gtest.h>

#include <numeric>

#include "method_support.h"

namespace kvscope::testing {
namespace {

using ::testing::ElementsAre;

/// Slots of each (layer, KV head) for these planes.
Allocation allocate(const Allocator& allocator, const Budget& budget, int tokens, int kv_heads,
                    const std::vector<std::vector<float>>& scores, const Protection& protection) {
  const BudgetScope scope{tokens, static_cast<int>(scores.size()), kv_heads, 64};
  return allocator.allocate({budget, scope, protection, 0, scores});
}

/// Slots of each layer of a one-head model under PyramidKV.
std::vector<int> pyramid(int layers, int tokens, int window, const std::string& keep) {
  Protection protection(tokens);
  protection.add(tokens - window, tokens, Reason::observation_window);
  const std::vector<std::vector<float>> planes(static_cast<std::size_t>(layers));
  return allocate(*detail::make_pyramid(20), Budget::parse(keep), tokens, 1, planes, protection)
      .slots;
}

/// specs/baselines.md G42: counts of the reference code.
TEST(Allocators, PyramidFallsLinearlyAsTheReference) {
  const std::vector<int> steep = pyramid(32, 1024, 64, "0.5");
  EXPECT_EQ(std::vector<int>(steep.begin(), steep.begin() + 4),
            (std::vector<int>{960, 931, 902, 873}));
  EXPECT_EQ(std::vector<int>(steep.end() - 4, steep.end()), (std::vector<int>{151, 122, 93, 64}));
  EXPECT_EQ(std::accumulate(steep.begin(), steep.end(), 0), 16384);
  const std::vector<int> flat = pyramid(32, 4096, 64, "0.2");
  EXPECT_EQ(flat, std::vector<int>(32, 819));
  const std::vector<int> longer = pyramid(32, 4096, 64, "0.5");
  EXPECT_EQ(std::vector<int>(longer.begin(), longer.begin() + 4),
            (std::vector<int>{3994, 3868, 3743, 3617}));
  EXPECT_EQ(std::vector<int>(longer.end() - 4, longer.end()),
            (std::vector<int>{479, 353, 228, 102}));
  EXPECT_EQ(std::accumulate(longer.begin(), longer.end(), 0), 65536);
  EXPECT_THAT(pyramid(4, 256, 8, "0.5"), ElementsAre(248, 168, 88, 8));
  EXPECT_THAT(pyramid(8, 1000, 64, "0.75"), ElementsAre(936, 883, 830, 777, 723, 670, 617, 564));
  const std::vector<int> longest = pyramid(32, 8192, 64, "0.25");
  EXPECT_EQ(std::vector<int>(longest.end() - 4, longest.end()),
            (std::vector<int>{479, 353, 228, 102}));
  EXPECT_EQ(std::accumulate(longest.begin(), longest.end(), 0), 65536);
}

TEST(Allocators, PyramidOfOneLayerIsUniform) {
  EXPECT_THAT(pyramid(1, 256, 8, "0.5"), ElementsAre(128));
}

/// Two heads, six tokens, four slots each; head 0 holds the six best scores but one.
TEST(Allocators, AdakvPoolsALayerAboveItsFloor) {
  const std::vector<std::vector<float>> scores{{9, 8, 7, 6, 5, 4,  //
                                                .5F, .4F, 3, .3F, .2F, .1F}};
  const Protection none(6);
  const auto slots = [&](double floor) {
    return allocate(*detail::make_adakv(floor), Budget::of_slots(4), 6, 2, scores, none);
  };
  // No floor: the best eight of both heads: all six of head 0, then 3 and 0.5.
  EXPECT_THAT(slots(0).slots, ElementsAre(6, 2));
  EXPECT_THAT(slots(0).floor_only, ElementsAre(0, 0));
  // A floor of three: head 1 holds three, one of them by its floor alone.
  EXPECT_THAT(slots(.75).slots, ElementsAre(5, 3));
  EXPECT_THAT(slots(.75).floor_only, ElementsAre(0, 1));
  EXPECT_THAT(slots(1).slots, ElementsAre(4, 4));
}

/// kvpress 0.5.5: a floor above 0 is at least one token.
TEST(Allocators, AdakvGuaranteesATokenAtAnyFloor) {
  const std::vector<std::vector<float>> scores{{9, 8, 7, 6, .5F, .4F, .3F, .2F}};
  const Protection none(4);
  const Allocation tiny =
      allocate(*detail::make_adakv(.2), Budget::of_slots(2), 4, 2, scores, none);
  EXPECT_THAT(tiny.slots, ElementsAre(3, 1));
  EXPECT_THAT(tiny.floor_only, ElementsAre(0, 1));
}

TEST(Allocators, AdakvCountsProtectedTokensTowardsTheFloor) {
  const std::vector<std::vector<float>> scores{{9, 8, 7, 6, 0, 0,  //
                                                5, 4, 3, 2, 0, 0}};
  Protection window(6);
  window.add(4, 6, Reason::observation_window);
  const Allocation shares =
      allocate(*detail::make_adakv(.5), Budget::of_slots(4), 6, 2, scores, window);
  EXPECT_THAT(shares.slots, ElementsAre(6, 2));  // the window is the floor of two
}

TEST(Allocators, PoolRanksOneLayerOrTheModel) {
  const std::vector<std::vector<float>> scores{{9, 1, 1, 8, 1, 1},             // sums to 21
                                               {.6F, .1F, .1F, .1F, 0, .1F}};  // sums to 1
  const Protection none(3);
  const auto slots = [&](bool normalise) {
    return allocate(*detail::make_pool(Allocator::Scope::model, normalise), Budget::of_slots(1), 3,
                    2, scores, none)
        .slots;
  };
  // Raw: 9, 8, then the lowest of the ones: layer 0, head 0, tokens 1 and 2.
  EXPECT_THAT(slots(false), ElementsAre(3, 1, 0, 0));
  // Shares: .43, .38 | .6, then the tie at .1 of layer 1: head 0, token 1.
  EXPECT_THAT(slots(true), ElementsAre(1, 1, 2, 0));
  for (const bool normalise : {true, false}) {
    const auto layer = detail::make_pool(Allocator::Scope::layer, normalise);
    EXPECT_THAT(allocate(*layer, Budget::of_slots(1), 3, 2, {scores[0]}, none).slots,
                ElementsAre(1, 1));
    EXPECT_THAT(allocate(*layer, Budget::of_slots(1), 3, 2, {scores[1]}, none).slots,
                ElementsAre(2, 0));
  }
}

TEST(Allocators, PoolRefusesToNormaliseNegativeScores) {
  FakeRun run = generated_run({2, 2, 2, 8, 4, 4}, 1);
  expect_error([&] { decided(run, "knorm | pool", "4"); }, ErrorCode::usage, "negative score");
  EXPECT_EQ(decided(run, "knorm | pool:normalise=false", "4").kept_slots(), 16);
}

TEST(Allocators, ConcentrationSharesByTheHeadsEffectiveTokens) {
  FakeRun run = attention_run({1, 2, 2, 20, 2, 2}, std::vector<float>(800, 0.0F));
  at::Tensor keys = run.tables(0).keys;
  keys.fill_(2);  // head 0: all alike, every token counts the same
  keys[1].fill_(4);
  keys[1][7].fill_(0.1);  // head 1: one key stands out
  const auto slots = [&](const std::string& text, const char* keep) {
    const Decision decision = decided(run, text, keep);
    return std::pair(decision.layers[0].kept(0), decision.layers[0].kept(1));
  };
  // Equal scores: 20 effective tokens. One at (19 / 20) / sqrt(19 / 400) = 4.36 deviations above
  // the rest: p = e^4.36 / (e^4.36 + 19) = .804 for it, entropy .496 + .196 ln 19 = 1.07, 2.92.
  const double lone = 2.92;
  const double share = (1 / 20.0) / (1 / 20.0 + 1 / lone);
  const auto [flat, peaked] = slots("knorm | concentration:floor=0", "8");
  EXPECT_EQ(flat + peaked, 16);
  EXPECT_NEAR(flat, 16 * share, 1);
  const auto [more, less] = slots("knorm | concentration:floor=0,more=dispersed", "8");
  EXPECT_NEAR(less, 16 * share, 1) << "the other way round";
  EXPECT_EQ(more + less, 16);
  EXPECT_EQ(slots("knorm | concentration:floor=1", "8"), std::pair(8, 8)) << "all guaranteed";
  EXPECT_EQ(slots("knorm | concentration:floor=0", "20"), std::pair(20, 20));
  const auto [rest, all] = slots("knorm | concentration:floor=0", "15");
  EXPECT_EQ(all, 20) << "a head holds no more than its tokens";
  EXPECT_EQ(rest, 10) << "what is left goes to the other";
}

TEST(Selectors, NoiseDisturbsByDegree) {
  FakeRun run = generated_run({1, 2, 2, 60, 4, 4}, 3);
  const std::vector<int> plain = kept(decided(run, "knorm", "20"), 0, 0);
  EXPECT_EQ(kept(decided(run, "knorm | noise:deviation=0", "20"), 0, 0), plain);
  const auto moved = [&](const std::string& text) {
    std::vector<int> lost;
    const std::vector<int> now = kept(decided(run, text, "20"), 0, 0);
    EXPECT_EQ(now.size(), 20u);
    std::set_difference(plain.begin(), plain.end(), now.begin(), now.end(),
                        std::back_inserter(lost));
    return lost.size();
  };
  EXPECT_LE(moved("knorm | noise:deviation=0.01"), 2u);
  EXPECT_GE(moved("knorm | noise:deviation=100"), 7u) << "nearly chance keeps a third of them";
  EXPECT_NE(kept(decided(run, "knorm | noise:deviation=1,seed=1", "20"), 0, 0),
            kept(decided(run, "knorm | noise:deviation=1,seed=2", "20"), 0, 0));
  EXPECT_EQ(kept(decided(run, "knorm | noise:deviation=1,seed=1", "20"), 0, 0),
            kept(decided(run, "knorm | noise:deviation=1,seed=1", "20"), 0, 0));
}

TEST(Selectors, NoiseBreaksTiesByChance) {
  FakeRun run = attention_run({1, 1, 1, 40, 2, 2}, std::vector<float>(1600, 0.0F));
  run.tables(0).keys.fill_(1);
  const Decision decision = decided(run, "knorm | noise:deviation=0.000001", "10");
  EXPECT_EQ(decision.layers[0].kept(0), 10);
  EXPECT_GT(kept(decision, 0, 0).back(), 20) << "not the first ten";
}

TEST(Selectors, TopKKeepsTheLowerOfEqualTokens) {
  FakeRun run = attention_run({1, 1, 1, 6, 2, 2}, std::vector<float>(36, 0.0F));
  run.tables(0).keys = table({1, 6, 2}, {3, 0, 1, 0, 0, 1, 2, 0, 0, -1, 1, 0});
  EXPECT_THAT(kept(decided(run, "knorm", "2"), 0, 0), ElementsAre(1, 2));
  EXPECT_THAT(kept(decided(run, "knorm | top_k", "3"), 0, 0), ElementsAre(1, 2, 4));
}

TEST(Selectors, ThresholdKeepsWhatReachesItWhateverTheBudget) {
  FakeRun run = attention_run({1, 1, 1, 6, 2, 2}, std::vector<float>(36, 0.0F));
  run.tables(0).keys = table({1, 6, 2}, {3, 0, 1, 0, 0, 1, 2, 0, 0, -1, 1, 0});
  const Decision decision = decided(run, "knorm | threshold:at=-2", "1");
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_TRUE(decision.by_method);
  EXPECT_EQ(reason(decision, 0, 0, 0), Reason::threshold);
  EXPECT_EQ(decision.layers[0].granted[0], 5);
  EXPECT_TRUE(kept(decided(run, "knorm | threshold:at=1", "1"), 0, 0).empty());
}

}  // namespace
}  // namespace kvscope::testing
