// The most probable tokens, against sorting them all.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "decode_series.h"

namespace kvscope::detail {
namespace {

constexpr int count = 64;  // that a capture stores

void expect_the_best(const at::Tensor& logits) {
  const TopLogits top = top_logits(logits);
  const at::Tensor log_probability = at::log_softmax(logits.to(at::kDouble), 0);
  const auto* p = log_probability.const_data_ptr<double>();
  std::vector<std::int32_t> order(static_cast<std::size_t>(logits.numel()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [p](int a, int b) { return p[a] > p[b]; });
  for (int rank = 0; rank < count; ++rank) {
    const auto token = top.token.const_data_ptr<std::int32_t>()[rank];
    const float stored = top.log_probability.const_data_ptr<float>()[rank];
    if (rank < std::ssize(order)) {
      EXPECT_EQ(token, order[static_cast<std::size_t>(rank)]) << rank;
      EXPECT_NEAR(stored, p[token], 1e-6 * std::max(1.0, std::abs(p[token])));
    } else {
      EXPECT_EQ(token, -1);
      EXPECT_TRUE(std::isnan(stored));
    }
  }
}

TEST(TopLogits, AreTheLargestInOrderEqualOnesByTheLowerId) {
  for (const int size : {1, 10, 63, 64, 65, 1000, 8191, 8192, 49152, 50001}) {
    SCOPED_TRACE(size);
    const at::Tensor index = at::arange(size, at::kFloat);
    expect_the_best(index.mul(12.9898).sin().mul(9));
    expect_the_best(index.mul(12.9898).sin().mul(4).round());  // many ties
    expect_the_best(index);                                    // the best are the last block
    expect_the_best(index.neg());
    expect_the_best(at::full({size}, 2.0f));
  }
}

TEST(TopLogits, NaNIsNoneOfThem) {
  at::Tensor logits = at::arange(300, at::kFloat);
  logits[17].fill_(std::numeric_limits<float>::quiet_NaN());
  const TopLogits top = top_logits(logits);  // one NaN makes every probability one
  EXPECT_TRUE(top.token.eq(-1).all().item<bool>());
}

}  // namespace
}  // namespace kvscope::detail
