#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <cmath>

#include "method_support.h"

namespace kvscope::testing {
namespace {

using ::testing::ElementsAre;

// clang-format off
/// specs/laprox.md section 12: two layers, one head, four candidates, a window of two.
FakeRun worked_example() {
  const FakeSizes sizes{2, 1, 1, 6, 2, 2};
  const std::vector<float> before(24, 0.0F);
  const auto rows = [&](std::vector<float> window) {
    std::vector<float> all = before;
    for (int row = 0; row < 2; ++row) {
      all.insert(all.end(), window.begin() + 4 * row, window.begin() + 4 * row + 4);
      all.insert(all.end(), {0, 0});
    }
    return table({1, 6, 6}, all);
  };
  FakeRun first = attention_run(sizes, std::vector<float>(36, 0.0F));
  FakeLayer one = first.tables(0);
  one.attention = rows({.5, .2, .2, .1,  .3, .4, .2, .1});
  one.values = table({1, 6, 2}, {1, 0,  0, 1,  1, 1,  2, 0,  0, 0,  0, 0});
  one.output_weights = table({1, 2, 2}, {1, 0, 0, 2});
  FakeLayer two = first.tables(0);
  two.attention = rows({.7, .1, .1, .1,  .6, .2, .1, .1});
  two.values = table({1, 6, 2}, {.1, 0,  0, .1,  .5, .5,  1, 0,  0, 0,  0, 0});
  two.output_weights = table({1, 2, 2}, {1, 0, 0, 1});
  return {sizes, {one, two}};
}

/// Section 12, GQA: two query heads on one KV head, two candidates, a window of two.
FakeRun group_example() {
  const FakeSizes sizes{1, 2, 1, 4, 2, 2};
  FakeRun run = attention_run(sizes, {0, 0, 0, 0,  0, 0, 0, 0,  .6, .4, 0, 0,  .2, .8, 0, 0,
                                      0, 0, 0, 0,  0, 0, 0, 0,  .1, .9, 0, 0,  .5, .5, 0, 0});
  run.tables(0).values = table({1, 4, 2}, {1, 0,  0, 1,  0, 0,  0, 0});
  run.tables(0).output_weights = table({2, 2, 2}, {1, 0, 0, 1,  -1, 0, 0, 2});
  return run;
}
// clang-format on

TEST(Laprox, WorkedExampleOverTwoLayers) {
  FakeRun run = worked_example();
  const Decision decision = decided(run, "laprox:window=2,pool=1", "4");
  expect_scores(scores(decision, 0, 0), {.583095, .894427, .632456, .282843});
  expect_scores(scores(decision, 1, 0), {.092195, .022361, .1, .141421});
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(kept(decision, 1, 0), ElementsAre(2, 3, 4, 5));
  // Raw scores across layers keep candidates of the first layer only.
  const Decision raw = decided(run, "laprox:window=2,pool=1,normalise=false", "4");
  EXPECT_THAT(kept(raw, 0, 0), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(kept(raw, 1, 0), ElementsAre(4, 5));
  // Attention alone keeps token 0 in both layers.
  const Decision attention = decided(run, "laprox:window=2,pool=1,value=false,scope=head", "3");
  EXPECT_THAT(kept(attention, 0, 0), ElementsAre(0, 4, 5));
  EXPECT_THAT(kept(attention, 1, 0), ElementsAre(0, 4, 5));
}

TEST(Laprox, WorkedExampleOfAGroup) {
  FakeRun run = group_example();
  const auto score = [&](const std::string& reduce) {
    return scores(decided(run, "laprox:window=2,pool=1,scope=head,reduce=" + reduce, "3"), 0, 0);
  };
  expect_scores(score("g1"), {.571179, 1.476777}, 2e-6);
  expect_scores(score("g2"), {.494975, 1.378858}, 2e-6);
  expect_scores(score("g2b"), {0, 2.757716}, 2e-6);
  expect_scores(score("gx"), {.583095, 2.842534}, 2e-6);
}

TEST(Laprox, AblationsLeaveOutTheirFactor) {
  FakeRun run = worked_example();
  const auto score = [&](const std::string& options) {
    return scores(decided(run, "laprox:window=2,pool=1," + options, "4"), 0, 0);
  };
  expect_scores(score("value=false"), {.583095, .447214, .282843, .141421});
  // Without the projection the values' own norms: 1, 1, sqrt 2, 2.
  expect_scores(score("projection=false"), {.583095, .447214, .4, .282843});
}

TEST(Laprox, PoolsOverCandidatesWithZerosOutside) {
  FakeRun run = worked_example();
  const Decision smooth = decided(run, "laprox:window=2,pool=3", "4");
  const double p[] = {.583095, .894427, .632456, .282843};
  expect_scores(scores(smooth, 0, 0), {(p[0] + p[1]) / 3, (p[0] + p[1] + p[2]) / 3,
                                       (p[1] + p[2] + p[3]) / 3, (p[2] + p[3]) / 3});
  const Decision columns = decided(run, "laprox:window=2,pool=3,pool_on=columns", "4");
  const double c[] = {.583095, .447214, .282843, .141421};
  const double u[] = {1, 2, 2.236068, 2};
  expect_scores(scores(columns, 0, 0), {(c[0] + c[1]) / 3 * u[0], (c[0] + c[1] + c[2]) / 3 * u[1],
                                        (c[1] + c[2] + c[3]) / 3 * u[2], (c[2] + c[3]) / 3 * u[3]});
}

/// Section 11.3: scaling one layer's values moves nothing under layer normalisation.
TEST(Laprox, LayerNormalisationRemovesALayersScale) {
  const FakeSizes sizes{3, 4, 2, 40, 8, 16};
  FakeRun run = generated_run(sizes, 5);
  const Decision before = decided(run, "laprox:window=4", "12");
  const Decision raw_before = decided(run, "laprox:window=4,normalise=false", "12");
  run.tables(1).values = run.tables(1).values * 8;  // a power of two: exact
  const Decision after = decided(run, "laprox:window=4", "12");
  const Decision raw_after = decided(run, "laprox:window=4,normalise=false", "12");
  bool moved = false;
  for (int layer = 0; layer < 3; ++layer) {
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      EXPECT_EQ(kept(before, layer, kv_head), kept(after, layer, kv_head));
      moved = moved || kept(raw_before, layer, kv_head) != kept(raw_after, layer, kv_head);
    }
  }
  EXPECT_TRUE(moved);
  EXPECT_EQ(before.kept_slots(), 3 * 2 * 12);  // section 11.4: to the slot
}

/// Section 11.6 and 11.7: one query head each, and duplicated query heads.
TEST(Laprox, WaysToReduceAGroupAgreeWhereTheyMust) {
  const auto score = [](FakeRun& run, const std::string& reduce) {
    return scores(decided(run, "laprox:window=4,pool=1,reduce=" + reduce, "12"), 0, 0);
  };
  const auto close = [](const std::vector<float>& some, const std::vector<float>& others,
                        double factor) {
    for (int token = 0; token < 36; ++token) {
      const auto at = static_cast<std::size_t>(token);
      EXPECT_NEAR(some[at] * factor, others[at], 2e-5 * others[at]) << token;
    }
  };
  FakeRun single = generated_run({1, 2, 2, 40, 8, 16}, 3);
  for (const char* reduce : {"g2", "g2b", "gx"}) {
    close(score(single, "g1"), score(single, reduce), 1);
  }
  FakeRun twin = generated_run({1, 2, 1, 40, 8, 16}, 3);
  FakeLayer& layer = twin.tables(0);
  layer.queries = layer.queries.narrow(0, 0, 1).repeat({2, 1, 1});
  layer.output_weights = layer.output_weights.narrow(0, 0, 1).repeat({2, 1, 1});
  close(score(twin, "g1"), score(twin, "g2"), 1);
  close(score(twin, "g1"), score(twin, "gx"), 2);
  close(score(twin, "g1"), score(twin, "g2b"), 2);
}

/// A barrier over one layer is the layer scope.
TEST(Laprox, OneLayerOfTheModelIsTheLayer) {
  FakeRun run = generated_run({1, 4, 2, 40, 8, 16}, 9);
  const Decision model = decided(run, "laprox:window=4", "12");
  const Decision layer = decided(run, "laprox:window=4,scope=layer", "12");
  const Decision pooled = decided(run, "laprox:window=4,scope=head | pool:scope=layer", "12");
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    EXPECT_EQ(kept(model, 0, kv_head), kept(layer, 0, kv_head));
    EXPECT_EQ(kept(pooled, 0, kv_head), kept(layer, 0, kv_head));
  }
  EXPECT_NE(kept(model, 0, 0).size(), kept(model, 0, 1).size());
}

/// Section 11.2 and 11.11: p is the norm of its rank-one term, so dropping without re-normalising
/// changes a query head's output by at most the dropped p.
TEST(Laprox, ScoreBoundsWhatDroppingChanges) {
  FakeRun run = generated_run({1, 1, 1, 40, 8, 16}, 11);
  const Decision decision = decided(run, "laprox:window=4,pool=1,scope=head", "12");
  const std::unique_ptr<LayerEvidence> evidence = run.layer(0);
  const at::Tensor attention = evidence->attention(4)[0].to(at::kDouble);
  const at::Tensor projected = run.tables(0)
                                   .values[0]
                                   .to(at::kDouble)
                                   .matmul(run.tables(0).output_weights[0].to(at::kDouble));
  at::Tensor change = at::zeros({4, 16}, at::kDouble);
  double bound = 0;
  for (int token = 0; token < 36; ++token) {
    const at::Tensor term = attention.select(1, token).unsqueeze(1) * projected[token];
    const double score = scores(decision, 0, 0)[static_cast<std::size_t>(token)];
    EXPECT_NEAR(term.norm().item<double>(), score, 1e-5 * score);
    if (decision.layers[0].removed_at[static_cast<std::size_t>(token)] != alive) {
      change += term;
      bound += score;
    }
  }
  EXPECT_LE(change.norm().item<double>(), bound * (1 + 1e-6));
}

TEST(Laprox, RefusesCombinationsWithoutAMeaning) {
  expect_error([] { parse_methods("laprox:reduce=gx,value=false"); }, ErrorCode::usage,
               "reduce=gx");
  expect_error([] { parse_methods("laprox:reduce=g2b,projection=false"); }, ErrorCode::usage,
               "projected values");
  expect_error([] { parse_methods("laprox:reduce=gx,pool_on=columns"); }, ErrorCode::usage,
               "pool_on=columns");
}

}  // namespace
}  // namespace kvscope::testing
