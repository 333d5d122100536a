// The CUDA twin of attention_stats against the CPU definition. Without a device every test is
// skipped.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <string>

#include "attention_cases.h"
#include "kvscope/core/error.h"
#include "kvscope/kernels/attention_stats.h"

namespace kvscope {
namespace {

using testing::Random;
using testing::same_bytes;
using testing::worst;

struct Case {
  const char* name;
  int query_heads, kv_heads, rows, tokens, head_dim;
  int first_query = 0;
  int window = 0;
  double softcap = 0;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

constexpr Case cases[] = {
    {"one_token", 4, 2, 1, 1, 64},
    {"head_dim_64_odd_tokens", 9, 3, 333, 333, 64},
    {"head_dim_80_group_1", 2, 2, 97, 97, 80},
    {"head_dim_128_group_7", 7, 1, 130, 130, 128},
    {"head_dim_256", 2, 1, 70, 70, 256},
    {"chunk_after_a_cache", 6, 2, 100, 411, 64, 311},
    {"one_query_long_cache", 9, 3, 1, 700, 64, 699},
    {"window_in_a_chunk", 4, 2, 50, 350, 64, 300, 100},
    {"softcap_window", 4, 1, 150, 150, 96, 0, 20, 5.0},
    {"rows_that_see_nothing", 2, 1, 40, 20, 32, 0, 8},
    {"long_column", 2, 1, 9000, 9000, 64},
};

class AttentionStatsCuda : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    std::string why_not;
    if (!cuda_available(&why_not)) {
      GTEST_SKIP() << "no CUDA here: " << why_not;
    }
  }
};

AttentionStatsOptions options_of(const Case& c) {
  AttentionStatsOptions options;
  options.scale = 1.0 / std::sqrt(c.head_dim);
  options.softcap = c.softcap;
  options.window = c.window;
  options.first_query = c.first_query;
  options.windows = {8, 32};
  return options;
}

/// Tolerance: absolute 2e-8 plus 2e-5 of the CPU's value (float32 sums in another order).
void expect_twins(const at::Tensor& cuda, const at::Tensor& cpu, const char* what) {
  ASSERT_EQ(cuda.defined(), cpu.defined()) << what;
  EXPECT_LT(worst(cuda.cpu(), cpu, 1e-3), 2e-5) << what;
}

TEST_P(AttentionStatsCuda, IsTheTwinOfTheCpu) {
  const Case& c = GetParam();
  Random random(static_cast<std::uint64_t>(c.rows * 7 + c.head_dim));
  const at::Tensor queries = random.tensor({c.query_heads, c.rows, c.head_dim}) * 2;
  const at::Tensor keys = random.tensor({c.kv_heads, c.tokens, c.head_dim});
  const AttentionStatsOptions options = options_of(c);
  const AttentionStats cpu = attention_stats(queries, keys, {}, options);
  const AttentionStats cuda = attention_stats(queries.cuda(), keys.cuda(), {}, options);
  EXPECT_TRUE(cuda.lse.isneginf().cpu().equal(cpu.lse.isneginf()));
  const at::Tensor blind = cpu.lse.isneginf();
  EXPECT_LT(worst(cuda.lse.cpu().masked_fill(blind, 0), cpu.lse.masked_fill(blind, 0), 1), 2e-6);
  expect_twins(cuda.sum, cpu.sum, "sum");
  expect_twins(cuda.sum_squares, cpu.sum_squares, "sum_squares");
  expect_twins(cuda.max, cpu.max, "max");
  expect_twins(cuda.last_query, cpu.last_query, "last_query");
  EXPECT_LT(worst(cuda.entropy.cpu(), cpu.entropy, 1), 2e-5);
  EXPECT_LT(cuda.self_check.max().item<float>(), 1e-5);
  ASSERT_EQ(cuda.windows.size(), cpu.windows.size());
  for (std::size_t window = 0; window < cpu.windows.size(); ++window) {
    EXPECT_EQ(cuda.windows[window].window, cpu.windows[window].window);
    expect_twins(cuda.windows[window].sum, cpu.windows[window].sum, "window sum");
    expect_twins(cuda.windows[window].sum_squares, cpu.windows[window].sum_squares, "squares");
    expect_twins(cuda.windows[window].max, cpu.windows[window].max, "window max");
  }
}

TEST_P(AttentionStatsCuda, SameBytesTwiceInARow) {
  const Case& c = GetParam();
  Random random(1);
  const at::Tensor queries = random.tensor({c.query_heads, c.rows, c.head_dim}).cuda();
  const at::Tensor keys = random.tensor({c.kv_heads, c.tokens, c.head_dim}).cuda();
  const AttentionStats first = attention_stats(queries, keys, {}, options_of(c));
  const AttentionStats second = attention_stats(queries, keys, {}, options_of(c));
  EXPECT_TRUE(same_bytes(first.sum.cpu(), second.sum.cpu()));
  EXPECT_TRUE(same_bytes(first.entropy.cpu(), second.entropy.cpu()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionStatsCuda, ::testing::ValuesIn(cases),
                         [](const auto& shape) { return std::string(shape.param.name); });

/// On a machine without a device the door says what is missing, and nothing crashes.
TEST(CudaDoor, SaysWhyThereIsNoDevice) {
  std::string why_not = "untouched";
  if (cuda_available(&why_not)) {
    EXPECT_EQ(why_not, "");
  } else {
    EXPECT_NE(why_not, "");
    EXPECT_NE(why_not, "untouched");
  }
}

}  // namespace
}  // namespace kvscope
