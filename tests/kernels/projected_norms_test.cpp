#include "kvscope/kernels/projected_norms.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

/// Smooth, sign-changing numbers that no two heads share.
at::Tensor numbers(at::IntArrayRef shape, double step) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  return (at::arange(count, at::kDouble) * step).sin().to(at::kFloat).view(shape);
}

/// The definition, in float64, element by element.
double expected(const at::Tensor& values, const at::Tensor& weights, int order, std::int64_t head,
                std::int64_t slot) {
  const auto v = values.accessor<float, 3>();
  const auto w = weights.accessor<float, 3>();
  const std::int64_t kv_head = head / (weights.size(0) / values.size(0));
  double total = 0;
  for (std::int64_t column = 0; column < weights.size(2); ++column) {
    double product = 0;
    for (std::int64_t c = 0; c < values.size(2); ++c) {
      product += static_cast<double>(v[kv_head][slot][c]) * static_cast<double>(w[head][c][column]);
    }
    total += order == 2 ? product * product : std::abs(product);
  }
  return order == 2 ? std::sqrt(total) : total;
}

void expect_definition(std::int64_t kv_heads, std::int64_t group, std::int64_t slots,
                       std::int64_t head_dim, std::int64_t columns, int order) {
  const at::Tensor values = numbers({kv_heads, slots, head_dim}, 0.37);
  const at::Tensor weights = numbers({kv_heads * group, head_dim, columns}, 0.73);
  const at::Tensor norms = projected_norms(values, weights, order);
  ASSERT_EQ(norms.sizes(), (at::IntArrayRef{kv_heads * group, slots}));
  for (std::int64_t head = 0; head < kv_heads * group; ++head) {
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      const double wanted = expected(values, weights, order, head, slot);
      EXPECT_NEAR(norms[head][slot].item<double>(), wanted, 2e-6 * std::max(1.0, wanted))
          << "head " << head << " slot " << slot;
    }
  }
}

TEST(ProjectedNorms, FollowTheirDefinitionInBothOrders) {
  for (const int order : {1, 2}) {
    expect_definition(2, 3, 70, 8, 8, order);
    expect_definition(1, 1, 1, 5, 33, order);     // columns no multiple of the lanes
    expect_definition(3, 2, 300, 16, 20, order);  // several blocks, the last one short
  }
}

TEST(ProjectedNorms, ReadViewsOfALongerCache) {
  const at::Tensor cache = numbers({2, 90, 8}, 0.21);
  const at::Tensor weights = numbers({4, 8, 8}, 0.5);
  const at::Tensor view = cache.narrow(1, 10, 40);
  EXPECT_TRUE(
      projected_norms(view, weights, 2).equal(projected_norms(view.contiguous(), weights, 2)));
}

TEST(ProjectedNorms, KeepNanVisibleAndToItself) {
  at::Tensor values = numbers({1, 4, 8}, 0.3);
  values[0][2][5] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor norms = projected_norms(values, numbers({2, 8, 8}, 0.4), 2);
  for (int slot = 0; slot < 4; ++slot) {
    EXPECT_EQ(std::isnan(norms[1][slot].item<float>()), slot == 2);
  }
}

TEST(ProjectedNorms, RefuseWhatDoesNotFit) {
  const at::Tensor values = numbers({2, 4, 8}, 0.3);
  const at::Tensor weights = numbers({4, 8, 8}, 0.4);
  EXPECT_THROW(projected_norms(values[0], weights, 2), Error);
  EXPECT_THROW(projected_norms(values, weights.narrow(1, 0, 7), 2), Error);
  EXPECT_THROW(projected_norms(values, weights.narrow(0, 0, 3), 2), Error);
  EXPECT_THROW(projected_norms(values.to(at::kDouble), weights, 2), Error);
  EXPECT_THROW(projected_norms(values, weights, 3), Error);
}

}  // namespace
}  // namespace kvscope
