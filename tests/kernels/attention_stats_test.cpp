#include "kvscope/kernels/attention_stats.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "attention_impl.h"
#include "kvscope/core/error.h"
#include "stats_cases.h"

namespace kvscope {
namespace {

using namespace testing;

/// One query head, two tokens, worked out by hand: logits row 0 = [0], row 1 = [0, ln 3].
TEST(AttentionStats, ByHand) {
  const float ln3 = std::log(3.0f);
  const at::Tensor queries = at::tensor({0.0f, 1.0f}).view({1, 2, 1});
  const at::Tensor keys = at::tensor({0.0f, ln3}).view({1, 2, 1});
  AttentionStatsOptions options;
  options.windows = {1};
  const AttentionStats stats = attention_stats(queries, keys, {}, options);
  // Row 0 is [1, 0]; row 1 is [1/4, 3/4].
  EXPECT_NEAR(stats.lse[0][0].item<float>(), 0.0f, 1e-6);
  EXPECT_NEAR(stats.lse[0][1].item<float>(), std::log(4.0f), 1e-6);
  EXPECT_NEAR(stats.sum[0][0].item<float>(), 1.25f, 1e-6);
  EXPECT_NEAR(stats.sum[0][1].item<float>(), 0.75f, 1e-6);
  EXPECT_NEAR(stats.sum_squares[0][0].item<float>(), 1.0625f, 1e-6);
  EXPECT_NEAR(stats.max[0][0].item<float>(), 1.0f, 1e-6);
  EXPECT_NEAR(stats.max[0][1].item<float>(), 0.75f, 1e-6);
  EXPECT_NEAR(stats.last_query[0][0].item<float>(), 0.25f, 1e-6);
  EXPECT_NEAR(stats.windows[0].sum[0][1].item<float>(), 0.75f, 1e-6);
  EXPECT_NEAR(stats.windows[0].sum_squares[0][0].item<float>(), 0.0625f, 1e-6);
  EXPECT_NEAR(stats.entropy[0][0].item<float>(), 0.0f, 1e-6);
  EXPECT_NEAR(stats.entropy[0][1].item<float>(), std::log(4.0f) - 0.75f * ln3, 1e-6);
  EXPECT_LT(stats.self_check[0].item<float>(), 1e-6);
}

TEST(AttentionStats, AgreesWithTheExplicitMapInEveryInstructionSet) {
  for (const tile::Functions* functions : instruction_sets()) {
    for (const Case& c : cases()) {
      SCOPED_TRACE(std::string(functions->name) + " " + c.name);
      const Input input = make_input(c);
      expect_matches_map(
          detail::attention_stats_cpu(input.queries, input.keys, {}, input.options, *functions),
          input);
    }
  }
}

TEST(AttentionStats, TakesTheLseItIsGiven) {
  const Input input = make_input(cases()[1]);
  const Map map = testing::explicit_map(input.queries, input.keys, input.options);
  const at::Tensor lse = map.lse.to(at::kFloat);
  const AttentionStats stats = attention_stats(input.queries, input.keys, lse, input.options);
  EXPECT_TRUE(same_bytes(stats.lse, lse));
  expect_matches_map(stats, input);
}

TEST(AttentionStats, StridesAreFree) {
  const Case c{"", 4, 2, 77, 77, 64};
  Input input = make_input(c);
  const AttentionStats dense = attention_stats(input.queries, input.keys, {}, input.options);
  // Token-major storage, as a projection leaves it.
  const at::Tensor queries = input.queries.transpose(0, 1).contiguous().transpose(0, 1);
  const at::Tensor keys = at::cat({input.keys, input.keys}, 2).narrow(2, 0, 64);
  const AttentionStats strided = attention_stats(queries, keys, {}, input.options);
  EXPECT_TRUE(same_bytes(dense.sum, strided.sum));
  EXPECT_TRUE(same_bytes(dense.entropy, strided.entropy));
  const at::Tensor across = input.keys.transpose(1, 2).contiguous().transpose(1, 2);
  EXPECT_TRUE(same_bytes(dense.sum, attention_stats(queries, across, {}, input.options).sum));
}

void expect_same(const AttentionStats& a, const AttentionStats& b) {
  EXPECT_TRUE(same_bytes(a.lse, b.lse));
  EXPECT_TRUE(same_bytes(a.sum, b.sum));
  EXPECT_TRUE(same_bytes(a.sum_squares, b.sum_squares));
  EXPECT_TRUE(same_bytes(a.max, b.max));
  EXPECT_TRUE(same_bytes(a.entropy, b.entropy));
  EXPECT_TRUE(same_bytes(a.windows[1].sum, b.windows[1].sum));
}

TEST(AttentionStats, SameBytesForAnyNumberOfThreads) {
  const Input input = make_input({"", 6, 2, 700, 700, 64});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const AttentionStats one = attention_stats(input.queries, input.keys, {}, input.options);
  at::set_num_threads(5);
  const AttentionStats five = attention_stats(input.queries, input.keys, {}, input.options);
  const AttentionStats again = attention_stats(input.queries, input.keys, {}, input.options);
  at::set_num_threads(threads);
  expect_same(one, five);
  expect_same(five, again);
}

TEST(AttentionStats, ChunksAddUp) {
  const Input input = make_input({"", 4, 2, 300, 300, 64});
  const AttentionStats whole = attention_stats(input.queries, input.keys, {}, input.options);
  AttentionStatsOptions second = input.options;
  second.first_query = 180;
  const AttentionStats a = attention_stats(input.queries.narrow(1, 0, 180),
                                           input.keys.narrow(1, 0, 180), {}, input.options);
  const AttentionStats b =
      attention_stats(input.queries.narrow(1, 180, 120), input.keys, {}, second);
  at::Tensor sum = b.sum.clone();
  sum.narrow(1, 0, 180).add_(a.sum);
  at::Tensor largest = b.max.clone();
  largest.narrow(1, 0, 180).copy_(at::maximum(b.max.narrow(1, 0, 180), a.max));
  EXPECT_LT(worst(sum, whole.sum, 1e-3), 2e-6);
  EXPECT_TRUE(largest.equal(whole.max));
  EXPECT_LT(worst(at::cat({a.entropy, b.entropy}, 1), whole.entropy, 1), 2e-6);
  EXPECT_TRUE(same_bytes(b.windows[1].sum, whole.windows[1].sum));
}

TEST(AttentionStats, SelfCheckSeesAWrongScaleOrBase) {
  const Input input = make_input(cases()[1]);
  const Map map = testing::explicit_map(input.queries, input.keys, input.options);
  const at::Tensor base2 = (map.lse * 1.4426950408889634).to(at::kFloat);
  const AttentionStats wrong_base =
      attention_stats(input.queries, input.keys, base2, input.options);
  EXPECT_GT(wrong_base.self_check.min().item<float>(), 1e-3);
  AttentionStatsOptions scaled = input.options;
  scaled.scale *= 1.05;
  const AttentionStats wrong_scale =
      attention_stats(input.queries, input.keys, map.lse.to(at::kFloat), scaled);
  EXPECT_GT(wrong_scale.self_check.min().item<float>(), 1e-3);
}

TEST(AttentionStats, OnlyWhatIsAskedFor) {
  Input input = make_input(cases()[1]);
  const AttentionStats all = attention_stats(input.queries, input.keys, {}, input.options);
  input.options.columns = false;
  input.options.entropy = false;
  input.options.last_query = false;
  const AttentionStats some = attention_stats(input.queries, input.keys, {}, input.options);
  EXPECT_FALSE(some.sum.defined());
  EXPECT_FALSE(some.entropy.defined());
  EXPECT_FALSE(some.last_query.defined());
  EXPECT_FALSE(some.self_check.defined());
  EXPECT_LT(worst(some.windows[0].sum, all.windows[0].sum, 1e-3), 1e-6);
}

TEST(AttentionStats, EmptyInputsAreDefined) {
  AttentionStatsOptions options;
  const AttentionStats no_keys =
      attention_stats(at::zeros({2, 3, 8}), at::zeros({1, 0, 8}), {}, options);
  EXPECT_TRUE(no_keys.lse.isneginf().all().item<bool>());
  EXPECT_EQ(no_keys.sum.numel(), 0);
  const AttentionStats no_queries =
      attention_stats(at::zeros({2, 0, 8}), at::zeros({1, 5, 8}), {}, options);
  EXPECT_EQ(no_queries.lse.numel(), 0);
  EXPECT_TRUE(no_queries.sum.equal(at::zeros({2, 5})));
}

TEST(AttentionStats, NamesWhatIsWrong) {
  const Input input = make_input(cases()[1]);
  const auto message = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return std::string(error.code() == ErrorCode::usage ? error.message() : "wrong code");
    }
    return std::string("no error");
  };
  EXPECT_EQ(message([&] { attention_stats(input.queries.to(at::kDouble), input.keys, {}, {}); }),
            "queries and keys differ in element type");
  EXPECT_EQ(message([&] { attention_stats(input.queries.narrow(0, 0, 8), input.keys, {}, {}); }),
            "8 query heads do not divide into 3 KV heads");
  EXPECT_EQ(message([&] {
              attention_stats(input.queries, input.keys, at::zeros({9, 5}, at::kFloat), {});
            }),
            "lse must be [9, 333], is [9, 5]");
}

TEST(AttentionRectangle, IsThePieceOfTheMap) {
  const Input input = make_input(cases()[11]);
  const Map map = testing::explicit_map(input.queries, input.keys, input.options);
  const at::Tensor lse = map.lse.to(at::kFloat);
  const at::Tensor piece = attention_rectangle(
      input.queries[3].narrow(0, 10, 20), input.keys[1].narrow(0, 250, 90),
      lse[3].narrow(0, 10, 20), input.options.first_query + 10, 250, input.options);
  EXPECT_LT(worst(piece, map.p[3].narrow(0, 10, 20).narrow(1, 250, 90), 1e-3), 2e-5);
}

}  // namespace
}  // namespace kvscope
