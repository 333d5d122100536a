#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "attention_impl.h"
#include "kvscope/core/error.h"
#include "kvscope/kernels/largest.h"
#include "stats_cases.h"

namespace kvscope {
namespace {

using namespace testing;

AttentionOptions geometry(const AttentionStatsOptions& options) {
  AttentionOptions forward;
  forward.scale = options.scale;
  forward.softcap = options.softcap;
  forward.window = options.window;
  forward.first_query = options.first_query;
  return forward;
}

at::Tensor values_of(const Input& input) {
  return Random(5).tensor(input.keys.sizes());
}

TEST(AttentionWithStats, AgreesWithTheExplicitMapInEveryInstructionSet) {
  for (const tile::Functions* functions : instruction_sets()) {
    for (const Case& c : cases()) {
      SCOPED_TRACE(std::string(functions->name) + " " + c.name);
      const Input input = make_input(c);
      const AttentionPass pass = detail::attention_with_stats_cpu(
          input.queries, input.keys, values_of(input), {}, {}, input.options, *functions);
      expect_matches_map(pass.stats, input);
    }
  }
}

/// Whoever watches a run must not change it.
TEST(AttentionWithStats, OutputAndLseAreThoseOfThePassAloneBitForBit) {
  for (const tile::Functions* functions : instruction_sets()) {
    for (const Case& c : cases()) {
      SCOPED_TRACE(std::string(functions->name) + " " + c.name);
      const Input input = make_input(c);
      const at::Tensor values = values_of(input);
      const AttentionResult alone = detail::attention_with_lse_cpu(
          input.queries, input.keys, values, {}, {}, geometry(input.options), *functions);
      const AttentionPass watched = detail::attention_with_stats_cpu(
          input.queries, input.keys, values, {}, {}, input.options, *functions);
      EXPECT_TRUE(same_bytes(alone.output, watched.output));
      EXPECT_TRUE(same_bytes(alone.lse, watched.stats.lse));
    }
  }
}

TEST(AttentionWithStats, SameBytesForAnyThreadCount) {
  const int before = at::get_num_threads();
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Input input = make_input(c);
    const at::Tensor values = values_of(input);
    at::set_num_threads(1);
    const AttentionPass one =
        attention_with_stats(input.queries, input.keys, values, {}, {}, input.options);
    at::set_num_threads(5);
    const AttentionPass five =
        attention_with_stats(input.queries, input.keys, values, {}, {}, input.options);
    at::set_num_threads(before);
    EXPECT_TRUE(same_bytes(one.output, five.output));
    EXPECT_TRUE(same_bytes(one.stats.sum, five.stats.sum));
    EXPECT_TRUE(same_bytes(one.stats.sum_squares, five.stats.sum_squares));
    EXPECT_TRUE(same_bytes(one.stats.max, five.stats.max));
    EXPECT_TRUE(same_bytes(one.stats.entropy, five.stats.entropy));
    EXPECT_TRUE(same_bytes(one.stats.windows[1].sum, five.stats.windows[1].sum));
  }
}

TEST(AttentionWithStats, WhatWasNotAskedForIsUndefined) {
  Input input = make_input(cases()[1]);
  input.options.columns = input.options.entropy = input.options.last_query = false;
  input.options.windows = {16};
  const AttentionPass pass =
      attention_with_stats(input.queries, input.keys, values_of(input), {}, {}, input.options);
  EXPECT_FALSE(pass.stats.sum.defined());
  EXPECT_FALSE(pass.stats.entropy.defined());
  EXPECT_FALSE(pass.stats.last_query.defined());
  EXPECT_FALSE(pass.stats.self_check.defined());
  ASSERT_EQ(pass.stats.windows.size(), 1u);
  expect_window(pass.stats.windows[0], explicit_map(input.queries, input.keys, input.options), 16);
  input.options.windows.clear();
  input.options.entropy = true;
  const AttentionPass entropy =
      attention_with_stats(input.queries, input.keys, values_of(input), {}, {}, input.options);
  const Map map = explicit_map(input.queries, input.keys, input.options);
  EXPECT_LT(worst(entropy.stats.entropy, map.entropy, 1), 1e-5);
  EXPECT_TRUE(entropy.stats.windows.empty());
}

/// The last query's largest probabilities and its sinks are those of the whole row, however few
/// keys it sees; `last_query` stands in for them where they are not given.
TEST(AttentionWithStats, TopProbabilitiesAreThoseOfTheLastQuery) {
  for (const tile::Functions* functions : instruction_sets()) {
    for (const int queries : {1, 3, 40}) {
      for (const int window : {0, 5, 300, 1400}) {
        SCOPED_TRACE(fmt::format("{} {} queries, window {}", functions->name, queries, window));
        const int tokens = window == 300 ? 600 : 1500;
        Case c{"top", 6, 2, queries, tokens, 32, tokens - queries};
        Input input = make_input(c);
        input.options.window = window;
        const auto run = [&] {
          return detail::attention_with_stats_cpu(input.queries, input.keys, values_of(input), {},
                                                  {}, input.options, *functions)
              .stats;
        };
        input.options.windows.clear();
        input.options.columns = false;
        const at::Tensor row = run().last_query;
        input.options.last_query = false;
        input.options.last_top = 32;
        input.options.last_sinks = 4;
        if (queries > 4) {
          EXPECT_TRUE(same_bytes(run().last_query, row));
          continue;
        }
        const AttentionStats stats = run();
        EXPECT_FALSE(stats.last_query.defined());
        for (int head = 0; head < 6; ++head) {
          const float* p = row.const_data_ptr<float>() + head * tokens;
          const ScaledValues all{p, tokens, 0, 1, nullptr};
          const std::vector<RankedValue> expected = largest({&all, 1}, 32);
          ASSERT_EQ(expected.size(), 32u);
          for (int rank = 0; rank < 32; ++rank) {
            const auto at = static_cast<std::size_t>(rank);
            EXPECT_EQ(stats.top->key[static_cast<std::size_t>(head) * 32 + at], expected[at].index);
            EXPECT_EQ(stats.top->probability[static_cast<std::size_t>(head) * 32 + at],
                      expected[at].value);
          }
          EXPECT_FLOAT_EQ(stats.top->sink_mass[static_cast<std::size_t>(head)],
                          p[0] + p[1] + p[2] + p[3]);
        }
      }
    }
  }
}

/// Weights of a long prompt do not fit the cache at full height: blocks get lower.
TEST(AttentionWithStats, LongPrompts) {
  const Case c{"long", 2, 1, 700, 6000, 16, 5300};
  const Input input = make_input(c);
  expect_matches_map(
      attention_with_stats(input.queries, input.keys, values_of(input), {}, {}, input.options)
          .stats,
      input);
}

TEST(AttentionWithStats, ReadsABfloat16Cache) {
  for (const int rows : {1, 40}) {
    const Case c{"bfloat16", 4, 2, rows, 300, 64, 300 - rows};
    Input input = make_input(c);
    const at::Tensor keys = input.keys.to(at::kBFloat16);
    const at::Tensor values = values_of(input).to(at::kBFloat16);
    const AttentionPass pass =
        attention_with_stats(input.queries, keys, values, {}, {}, input.options);
    input.keys = keys.to(at::kFloat);
    expect_matches_map(pass.stats, input);
  }
}

/// A logit that is not a number makes its own row so, and its columns; other heads stay whole.
TEST(AttentionWithStats, NaNStaysInItsHead) {
  Input input = make_input(cases()[1]);
  input.queries[0][100].fill_(std::nanf(""));
  const AttentionPass pass =
      attention_with_stats(input.queries, input.keys, values_of(input), {}, {}, input.options);
  EXPECT_TRUE(pass.stats.lse[0][100].isnan().item<bool>());
  EXPECT_TRUE(pass.stats.sum[0][0].isnan().item<bool>());
  EXPECT_FALSE(pass.stats.sum.narrow(0, 1, 8).isnan().any().item<bool>());
}

/// Columns of a compressed cache are slots; a merged slot counts as the tokens it stands for.
TEST(AttentionWithStats, SlotsWithMultiplicitiesAndLengths) {
  for (const int rows : {3, 70}) {
    const Case c{"slots", 4, 2, rows, 300, 64, 300 - rows};
    const Input input = make_input(c);
    const at::Tensor values = values_of(input);
    at::Tensor counts = at::ones({2, 300});
    counts.narrow(1, 0, 100).fill_(3);
    const at::Tensor lengths = at::tensor({300, 250}, at::kInt);
    const AttentionPass pass =
        attention_with_stats(input.queries, input.keys, values, counts, lengths, input.options);
    for (int head = 0; head < 4; ++head) {
      const std::int64_t live = head < 2 ? 300 : 250;
      const at::Tensor keys = input.keys[head / 2].narrow(0, 0, live).to(at::kDouble);
      at::Tensor logits =
          at::matmul(input.queries[head].to(at::kDouble), keys.t()) * input.options.scale +
          counts[head / 2].narrow(0, 0, live).log();
      const at::Tensor later = at::ones({rows, live}, at::kBool).triu(live - rows + 1);
      logits = logits.masked_fill(later, -std::numeric_limits<double>::infinity());
      const at::Tensor p = at::softmax(logits, -1);
      EXPECT_LT(worst(pass.stats.sum[head].narrow(0, 0, live), p.sum(0), 1e-3), 2e-5);
      EXPECT_LT(worst(pass.stats.max[head].narrow(0, 0, live), p.amax({0}), 1e-3), 2e-5);
      EXPECT_EQ(pass.stats.sum[head].narrow(0, live, 300 - live).abs().sum().item<double>(), 0);
      EXPECT_LT(worst(pass.output[head],
                      at::matmul(p, values[head / 2].narrow(0, 0, live).to(at::kDouble)), 1),
                1e-5);
    }
  }
}

TEST(AttentionWithStats, RefusesWhatDoesNotFit) {
  const Input input = make_input(cases()[1]);
  EXPECT_THROW(attention_with_stats(input.queries, input.keys, values_of(input).narrow(1, 0, 8), {},
                                    {}, input.options),
               Error);
  AttentionStatsOptions options = input.options;
  options.windows = {0};
  EXPECT_THROW(attention_with_stats(input.queries, input.keys, values_of(input), {}, {}, options),
               Error);
}

}  // namespace
}  // namespace kvscope
