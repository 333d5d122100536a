#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_cases.h"
#include "tile/tasks.h"

namespace kvscope::testing {

/// Shapes in which attention statistics go wrong if they go wrong anywhere.
struct Case {
  const char* name;
  int query_heads, kv_heads, rows, tokens, head_dim;
  int first_query = 0;
  int window = 0;
  double softcap = 0;
};

inline const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"one_token", 4, 2, 1, 1, 64},
      {"head_dim_64_odd_tokens", 9, 3, 333, 333, 64},
      {"head_dim_80_group_1", 2, 2, 97, 97, 80},
      {"head_dim_128_group_7", 7, 1, 130, 130, 128},
      {"head_dim_256", 2, 1, 70, 70, 256},
      {"head_dim_20", 2, 1, 50, 50, 20},
      {"whole_blocks", 3, 1, 512, 512, 64},
      {"long_column", 1, 1, 1100, 1100, 16},
      {"chunk_after_a_cache", 6, 2, 100, 411, 64, 311},
      {"one_query_long_cache", 9, 3, 1, 700, 64, 699},
      {"window", 4, 2, 300, 300, 64, 0, 37},
      {"window_in_a_chunk", 4, 2, 50, 350, 64, 300, 100},
      {"softcap", 4, 2, 150, 150, 64, 0, 0, 30.0},
      {"softcap_window", 4, 1, 150, 150, 96, 0, 20, 5.0},
      {"rows_that_see_nothing", 2, 1, 40, 20, 32, 0, 8},
  };
  return all;
}

/// The inner loops that this machine runs.
inline const std::vector<const tile::Functions*>& instruction_sets() {
  static const std::vector<const tile::Functions*> all = [] {
    std::vector<const tile::Functions*> sets = {&tile::portable_functions()};
    if (tile::avx2_functions() != nullptr && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma")) {
      sets.push_back(tile::avx2_functions());
    }
    if (tile::avx512_functions() != nullptr && __builtin_cpu_supports("avx512f")) {
      sets.push_back(tile::avx512_functions());
    }
    return sets;
  }();
  return all;
}

struct Input {
  at::Tensor queries;
  at::Tensor keys;
  AttentionStatsOptions options;
};

inline Input make_input(const Case& c) {
  Random random(static_cast<std::uint64_t>(c.rows * 7 + c.head_dim));
  Input input;
  input.queries = random.tensor({c.query_heads, c.rows, c.head_dim}) * 2;
  input.keys = random.tensor({c.kv_heads, c.tokens, c.head_dim});
  input.options.scale = 1.0 / std::sqrt(c.head_dim);
  input.options.softcap = c.softcap;
  input.options.window = c.window;
  input.options.first_query = c.first_query;
  input.options.windows = {8, 32};
  return input;
}

inline void expect_window(const WindowStats& stats, const Map& map, int window) {
  const std::int64_t count = std::min<std::int64_t>(window, map.p.size(1));
  const at::Tensor p = map.p.narrow(1, map.p.size(1) - count, count);
  EXPECT_EQ(stats.window, count);
  EXPECT_LT(worst(stats.sum, p.sum(1), 1e-3), 2e-5);
  EXPECT_LT(worst(stats.sum_squares, (p * p).sum(1), 1e-3), 2e-5);
  EXPECT_LT(worst(stats.max, p.amax({1}), 1e-3), 2e-5);
}

/// Every statistic of windows {8, 32}, the last query and all queries.
inline void expect_matches_map(const AttentionStats& stats, const Input& input) {
  const Map map = explicit_map(input.queries, input.keys, input.options);
  const at::Tensor blind = map.lse.isinf();
  EXPECT_TRUE(stats.lse.isneginf().equal(blind));
  EXPECT_LT(worst(stats.lse.masked_fill(blind, 0), map.lse.masked_fill(blind, 0), 1), 1e-6);
  EXPECT_LT(worst(stats.sum, map.p.sum(1), 1e-3), 2e-5);
  EXPECT_LT(worst(stats.sum_squares, (map.p * map.p).sum(1), 1e-3), 2e-5);
  EXPECT_LT(worst(stats.max, map.p.amax({1}), 1e-3), 2e-5);
  EXPECT_LT(worst(stats.last_query, map.p.select(1, map.p.size(1) - 1), 1e-3), 2e-5);
  EXPECT_LT(worst(stats.entropy, map.entropy, 1), 1e-5);
  EXPECT_LT(stats.self_check.max().item<float>(), 1e-5);
  ASSERT_EQ(stats.windows.size(), 2u);
  expect_window(stats.windows[0], map, 8);
  expect_window(stats.windows[1], map, 32);
}

}  // namespace kvscope::testing
