#include <ATen/Parallel.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention_cases.h"
#include "attention_impl.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using testing::Map;
using testing::Random;
using testing::same_bytes;
using testing::worst;

struct Input {
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
  AttentionOptions options;
};

Input make_input(int query_heads, int kv_heads, int rows, int tokens, int head_dim) {
  Random random(static_cast<std::uint64_t>(rows * 31 + tokens + head_dim));
  Input input;
  input.queries = random.tensor({query_heads, rows, head_dim}) * 2;
  input.keys = random.tensor({kv_heads, tokens, head_dim});
  input.values = random.tensor({kv_heads, tokens, head_dim});
  input.options.scale = 1.0 / std::sqrt(head_dim);
  input.options.first_query = tokens - rows;
  return input;
}

AttentionResult run(const Input& input) {
  return attention_with_lse(input.queries, input.keys, input.values, {}, {}, input.options);
}

void expect_map(const AttentionResult& result, const Input& input) {
  AttentionStatsOptions options;
  options.scale = input.options.scale;
  options.softcap = input.options.softcap;
  options.window = input.options.window;
  options.first_query = input.options.first_query;
  const Map map = testing::explicit_map(input.queries, input.keys, options);
  const at::Tensor v = at::repeat_interleave(input.values.to(at::kDouble),
                                             input.queries.size(0) / input.keys.size(0), 0);
  EXPECT_LT(worst(result.output, at::bmm(map.p, v), 1e-1), 2e-5);
  EXPECT_LT(worst(result.lse, map.lse, 1), 1e-6);
}

TEST(AttentionWithLse, ByHand) {
  // Two slots with equal logits: the mean of the values; three tokens folded into the second
  // weigh 3.
  const at::Tensor queries = at::ones({1, 1, 1});
  const at::Tensor keys = at::zeros({1, 2, 1});
  const at::Tensor values = at::tensor({1.0f, 5.0f}).view({1, 2, 1});
  AttentionOptions options;
  options.first_query = 1;
  const AttentionResult plain = attention_with_lse(queries, keys, values, {}, {}, options);
  EXPECT_NEAR(plain.output.item<float>(), 3.0f, 1e-6);
  EXPECT_NEAR(plain.lse.item<float>(), std::log(2.0f), 1e-6);
  const AttentionResult merged =
      attention_with_lse(queries, keys, values, at::tensor({1.0f, 3.0f}).view({1, 2}), {}, options);
  EXPECT_NEAR(merged.output.item<float>(), 4.0f, 1e-6);
  EXPECT_NEAR(merged.lse.item<float>(), std::log(4.0f), 1e-6);
}

TEST(AttentionWithLse, AgreesWithTheExplicitMap) {
  for (const Input& input :
       {make_input(9, 3, 333, 333, 64), make_input(2, 2, 97, 97, 80),
        make_input(7, 1, 130, 130, 128), make_input(2, 1, 40, 600, 256), make_input(4, 2, 5, 5, 20),
        make_input(9, 3, 1, 700, 64), make_input(4, 2, 3, 900, 72), make_input(1, 1, 1, 1, 64)}) {
    expect_map(run(input), input);
  }
}

TEST(AttentionWithLse, EveryInstructionSetAgrees) {
  for (const int rows : {1, 150}) {
    Input input = make_input(6, 2, rows, 290, 80);
    for (const tile::Functions* functions :
         {&tile::portable_functions(), tile::avx2_functions(), &tile::functions()}) {
      if (functions == nullptr ||
          (functions == tile::avx2_functions() && !__builtin_cpu_supports("avx2"))) {
        continue;
      }
      SCOPED_TRACE(functions->name);
      expect_map(detail::attention_with_lse_cpu(input.queries, input.keys, input.values, {}, {},
                                                input.options, *functions),
                 input);
    }
  }
}

TEST(AttentionWithLse, ReadsABfloat16CacheAsItsFloats) {
  for (const int rows : {1, 3, 40}) {
    for (const int head_dim : {64, 72, 20}) {
      Input input = make_input(6, 2, rows, 300, head_dim);
      const at::Tensor keys = input.keys.to(at::kBFloat16);
      const at::Tensor values = input.values.to(at::kBFloat16);
      input.keys = keys.to(at::kFloat);
      input.values = values.to(at::kFloat);
      const AttentionResult expected = run(input);
      const AttentionResult found =
          attention_with_lse(input.queries, keys, values, {}, {}, input.options);
      EXPECT_LT(worst(found.output, expected.output, 1e-1), 1e-5) << rows << " x " << head_dim;
      EXPECT_LT(worst(found.lse, expected.lse, 1), 1e-6) << rows << " x " << head_dim;
    }
  }
}

TEST(AttentionWithLse, WindowAndSoftcap) {
  for (const int rows : {2, 120}) {
    Input input = make_input(4, 2, rows, 310, 64);
    input.options.window = 40;
    input.options.softcap = 20;
    expect_map(run(input), input);
  }
}

TEST(AttentionWithLse, OnesAsMultiplicityChangeNoBit) {
  for (const int rows : {1, 60}) {
    Input input = make_input(6, 2, rows, 200, 64);
    const AttentionResult plain = run(input);
    input.options.causal_tail = rows;
    const AttentionResult ones = attention_with_lse(input.queries, input.keys, input.values,
                                                    at::ones({2, 200}), {}, input.options);
    EXPECT_TRUE(same_bytes(plain.output, ones.output));
    EXPECT_TRUE(same_bytes(plain.lse, ones.lse));
  }
}

TEST(AttentionWithLse, AMultiplicityOfTwoIsTheSlotTwice) {
  for (const int rows : {1, 30}) {
    Input input = make_input(4, 2, rows, 60, 64);
    at::Tensor twice = at::ones({2, 60});
    twice.narrow(1, 7, 1).fill_(2);
    const AttentionResult merged =
        attention_with_lse(input.queries, input.keys, input.values, twice, {}, input.options);
    const at::Tensor keys = at::cat({input.keys, input.keys.narrow(1, 7, 1)}, 1);
    const at::Tensor values = at::cat({input.values, input.values.narrow(1, 7, 1)}, 1);
    const AttentionResult doubled =
        attention_with_lse(input.queries, keys, values, at::ones({2, 61}), {}, input.options);
    EXPECT_LT(worst(merged.output, doubled.output, 1e-1), 1e-5);
    EXPECT_LT(worst(merged.lse, doubled.lse, 1), 1e-6);
  }
}

TEST(AttentionWithLse, RaggedHeadsIgnoreWhatLiesBeyond) {
  for (const int rows : {2, 20}) {
    Input input = make_input(4, 2, rows, 300, 64);
    input.options.causal_tail = rows;
    const at::Tensor length = at::tensor({260, 120}, at::kInt);
    at::Tensor keys = input.keys.clone();
    at::Tensor values = input.values.clone();
    for (const int head : {0, 1}) {
      const int live = head == 0 ? 260 : 120;
      keys[head].narrow(0, live, 300 - live).fill_(std::nanf(""));
      values[head].narrow(0, live, 300 - live).fill_(std::nanf(""));
    }
    const AttentionResult ragged =
        attention_with_lse(input.queries, keys, values, {}, length, input.options);
    for (const int head : {0, 1}) {
      const int live = head == 0 ? 260 : 120;
      Input alone = input;
      alone.queries = input.queries.narrow(0, head * 2, 2);
      alone.keys = input.keys.narrow(0, head, 1).narrow(1, 0, live);
      alone.values = input.values.narrow(0, head, 1).narrow(1, 0, live);
      alone.options.first_query = live - rows;
      expect_map({ragged.output.narrow(0, head * 2, 2), ragged.lse.narrow(0, head * 2, 2)}, alone);
    }
    const AttentionResult plain =
        detail::attention_with_lse_plain(input.queries, keys, values, {}, length, input.options);
    EXPECT_LT(worst(ragged.output, plain.output, 1e-1), 2e-5);
  }
}

TEST(AttentionWithLse, AHeadWithoutSlotsIsZero) {
  for (const int rows : {1, 20}) {
    Input input = make_input(4, 2, rows, 30, 64);
    const AttentionResult result = attention_with_lse(input.queries, input.keys, input.values, {},
                                                      at::tensor({30, 0}, at::kInt), input.options);
    EXPECT_TRUE(result.output.narrow(0, 2, 2).equal(at::zeros({2, rows, 64})));
    EXPECT_TRUE(result.lse.narrow(0, 2, 2).isneginf().all().item<bool>());
    EXPECT_TRUE(result.lse.narrow(0, 0, 2).isfinite().all().item<bool>());
  }
}

TEST(AttentionWithLse, SameBytesForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  for (const int rows : {1, 400}) {
    const Input input = make_input(9, 3, rows, 800, 64);
    at::set_num_threads(1);
    const AttentionResult one = run(input);
    at::set_num_threads(4);
    const AttentionResult four = run(input);
    EXPECT_TRUE(same_bytes(one.output, four.output));
    EXPECT_TRUE(same_bytes(one.lse, four.lse));
  }
  at::set_num_threads(threads);
}

TEST(AttentionWithLse, PlainOperatorsAgree) {
  for (const int rows : {1, 300}) {
    Input input = make_input(6, 2, rows, 310, 64);
    input.options.softcap = 30;
    const AttentionResult plain = detail::attention_with_lse_plain(
        input.queries, input.keys, input.values, {}, {}, input.options);
    expect_map(plain, input);
  }
}

TEST(AttentionWithLse, BfloatComesBackAsBfloat) {
  const Input input = make_input(4, 2, 30, 30, 64);
  const AttentionResult exact = run(input);
  const AttentionResult rounded =
      attention_with_lse(input.queries.to(at::kBFloat16), input.keys.to(at::kBFloat16),
                         input.values.to(at::kBFloat16), {}, {}, input.options);
  EXPECT_EQ(rounded.output.scalar_type(), at::kBFloat16);
  EXPECT_EQ(rounded.lse.scalar_type(), at::kFloat);
  EXPECT_LT((rounded.output.to(at::kFloat) - exact.output).abs().max().item<float>(), 0.1f);
}

TEST(AttentionWithLse, NamesWhatIsWrong) {
  const Input input = make_input(4, 2, 3, 9, 64);
  EXPECT_THROW(attention_with_lse(input.queries, input.keys, input.values.narrow(1, 0, 8), {}, {},
                                  input.options),
               Error);
  EXPECT_THROW(attention_with_lse(input.queries, input.keys, input.values, at::ones({2, 8}), {},
                                  input.options),
               Error);
  EXPECT_THROW(attention_with_lse(input.queries, input.keys, input.values, {},
                                  at::tensor({9, 10}, at::kInt), input.options),
               Error);
}

}  // namespace
}  // namespace kvscope
