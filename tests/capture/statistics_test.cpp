#include <gtest/gtest.h>

#include "float64_attention.h"
#include "kvscope/storage/file_kind.h"
#include "recorded_run.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 37;

/// A full capture of a prompt run in chunks of 7, and its maps in float64.
class Statistics : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    CaptureRequest request;
    request.profile = Profile::full;
    request.windows = {4, 16};
    request.attention_maps = true;
    request.top_keys = 5;
    request.pooled_block = 8;
    record(folder_ / "x.capture.h5", request, fake_prompt(prompt_tokens), GetParam());
    reader_ = std::make_unique<CaptureReader>(folder_ / "x.capture.h5");
  }

  CaptureFolder folder_;
  std::unique_ptr<CaptureReader> reader_;
};

struct Sums {
  double sum = 0;
  double squares = 0;
  double max = 0;
};

Sums column(const std::vector<std::vector<double>>& map, int key, int first_query) {
  Sums sums;
  for (std::size_t query = static_cast<std::size_t>(first_query); query < map.size(); ++query) {
    const double p = map[query][static_cast<std::size_t>(key)];
    sums.sum += p;
    sums.squares += p * p;
    sums.max = std::max(sums.max, p);
  }
  return sums;
}

TEST_P(Statistics, PlanesAreThoseOfTheMapInFloat64) {
  for (int layer = 0; layer < 2; ++layer) {
    const auto plane = [&](const std::string& name) {
      return reader_->read_plane(name, layer, prompt_tokens);
    };
    const auto sum = plane("attention_sum");
    const auto squares = plane("attention_sum_squares");
    const auto max = plane("attention_max");
    const auto last = plane("last_query");
    const auto entropy = plane("entropy");
    for (int head = 0; head < 4; ++head) {
      const auto map = float64_map(*reader_, layer, head);
      for (int key = 0; key < prompt_tokens; ++key) {
        const auto cell = static_cast<std::size_t>(head * prompt_tokens + key);
        const Sums all = column(map, key, 0);
        EXPECT_NEAR(sum[cell], all.sum, 2e-6 * (1 + all.sum));
        EXPECT_NEAR(squares[cell], all.squares, 3e-6);
        EXPECT_NEAR(max[cell], all.max, 1e-6);
        EXPECT_NEAR(last[cell], map.back()[static_cast<std::size_t>(key)], 1e-6);
        double nats = 0;
        for (const double p : map[static_cast<std::size_t>(key)]) {
          nats -= p > 0 ? p * std::log(p) : 0;
        }
        EXPECT_NEAR(entropy[cell], nats, 5e-6) << "query " << key;
      }
    }
  }
}

TEST_P(Statistics, WindowsSeeTheirQueriesOnly) {
  for (const int window : {4, 16}) {
    const std::string folder = "window_" + std::to_string(window) + "/";
    for (int head = 0; head < 4; ++head) {
      const auto map = float64_map(*reader_, 1, head);
      for (int key = 0; key < prompt_tokens; ++key) {
        const Sums newest = column(map, key, prompt_tokens - window);
        const auto at = [&](const std::string& name) {
          return reader_->read_plane(
              name, 1, prompt_tokens)[static_cast<std::size_t>(head * prompt_tokens + key)];
        };
        EXPECT_NEAR(at(folder + "window_sum"), newest.sum, 3e-6);
        EXPECT_NEAR(at(folder + "window_sum_squares"), newest.squares, 3e-6);
        EXPECT_NEAR(at(folder + "window_max"), newest.max, 1e-6);
        if (window == 16) {  // the largest has the documented names too
          EXPECT_EQ(at("window_sum"), at(folder + "window_sum"));
        }
      }
    }
  }
}

TEST_P(Statistics, StoredMapsAreTheMap) {
  for (int head = 0; head < 4; ++head) {
    const auto map = float64_map(*reader_, 0, head);
    std::vector<float> stored(static_cast<std::size_t>(prompt_tokens * prompt_tokens));
    reader_->read("layers/000/attention", {head, 0, 0}, {1, prompt_tokens, prompt_tokens},
                  std::span(stored));
    for (int query = 0; query < prompt_tokens; ++query) {
      for (int key = 0; key < prompt_tokens; ++key) {
        const float p = stored[static_cast<std::size_t>(query * prompt_tokens + key)];
        const double expected = map[static_cast<std::size_t>(query)][static_cast<std::size_t>(key)];
        EXPECT_NEAR(p, expected, 6e-4 * expected + 1e-7) << query << " " << key;  // float16
      }
    }
  }
}

TEST_P(Statistics, TopKeysAreThoseOfTheMap) {
  for (int head = 0; head < 4; ++head) {
    const auto map = float64_map(*reader_, 1, head);
    std::vector<std::int32_t> keys(prompt_tokens * 5);
    std::vector<float> values(keys.size());
    reader_->read("reduce/top_key", {1, head, 0, 0}, {1, 1, prompt_tokens, 5}, std::span(keys));
    reader_->read("reduce/top_probability", {1, head, 0, 0}, {1, 1, prompt_tokens, 5},
                  std::span(values));
    for (int query = 0; query < prompt_tokens; ++query) {
      std::vector<double> sorted = map[static_cast<std::size_t>(query)];
      std::sort(sorted.rbegin(), sorted.rend());
      for (int rank = 0; rank < 5; ++rank) {
        const auto at = static_cast<std::size_t>(query * 5 + rank);
        if (rank > query) {
          EXPECT_EQ(keys[at], -1);
          EXPECT_TRUE(std::isnan(values[at]));
          continue;
        }
        ASSERT_GE(keys[at], 0);
        ASSERT_LE(keys[at], query);
        const double p = map[static_cast<std::size_t>(query)][static_cast<std::size_t>(keys[at])];
        EXPECT_NEAR(p, sorted[static_cast<std::size_t>(rank)], 1e-6);
        EXPECT_NEAR(values[at], p, 6e-4 * p + 1e-7);
      }
    }
  }
}

TEST_P(Statistics, PooledMapsAreSumsAndMaximaOfBlocks) {
  for (const int side : {8, 16, 32, 64}) {
    const int blocks = (prompt_tokens + side - 1) / side;
    for (int head = 0; head < 4; ++head) {
      const auto map = float64_map(*reader_, 0, head);
      const std::string folder = "reduce/pooled/" + std::to_string(side) + "/";
      std::vector<float> sum(static_cast<std::size_t>(blocks * blocks));
      std::vector<float> max(sum.size());
      reader_->read(folder + "sum", {0, head, 0, 0}, {1, 1, blocks, blocks}, std::span(sum));
      reader_->read(folder + "max", {0, head, 0, 0}, {1, 1, blocks, blocks}, std::span(max));
      std::vector<double> expected_sum(sum.size(), 0.0);
      std::vector<double> expected_max(sum.size(), 0.0);
      for (int query = 0; query < prompt_tokens; ++query) {
        for (int key = 0; key <= query; ++key) {
          const auto at = static_cast<std::size_t>(query / side * blocks + key / side);
          const double p = map[static_cast<std::size_t>(query)][static_cast<std::size_t>(key)];
          expected_sum[at] += p;
          expected_max[at] = std::max(expected_max[at], p);
        }
      }
      for (std::size_t at = 0; at < sum.size(); ++at) {
        EXPECT_NEAR(sum[at], expected_sum[at], 1e-3 * expected_sum[at] + 1e-6) << side << " " << at;
        EXPECT_NEAR(max[at], expected_max[at], 1e-3 * expected_max[at] + 1e-6) << side << " " << at;
      }
    }
  }
}

TEST_P(Statistics, NormsAreThoseOfTheStoredRows) {
  std::vector<float> keys(2 * prompt_tokens * 8);
  reader_->read("layers/001/keys", {0, 0, 0}, {2, prompt_tokens, 8}, std::span(keys));
  const auto norm = reader_->read_plane("key_norm", 1, prompt_tokens);
  for (std::size_t row = 0; row < norm.size(); ++row) {
    double squares = 0;
    for (std::size_t channel = 0; channel < 8; ++channel) {
      squares += std::pow(static_cast<double>(keys[row * 8 + channel]), 2);
    }
    EXPECT_NEAR(norm[row], std::sqrt(squares), 1e-6 * std::sqrt(squares));
  }
}

TEST_P(Statistics, SelfCheckAndFileAreSound) {
  std::vector<float> residual(8);
  reader_->read("reduce/self_check", {0, 0}, {2, 4}, std::span(residual));
  for (const float cell : residual) {
    EXPECT_LT(cell, 1e-5f);
  }
  EXPECT_EQ(check_file(folder_ / "x.capture.h5"), std::vector<std::string>{});
}

INSTANTIATE_TEST_SUITE_P(Chunks, Statistics, testing::Values(0, 7, 16));

}  // namespace
}  // namespace kvscope::test
