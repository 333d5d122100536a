#include "kvscope/kernels/projected_norms.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

/// Products of one block: they stay in a core's own cache.
constexpr std::int64_t block_elements = 1 << 17;

void check(const at::Tensor& values, const at::Tensor& weights, int order) {
  const auto require = [](bool holds, const char* what) {
    KVSCOPE_CHECK(holds, ErrorCode::usage, what, "projected_norms",
                  "pass values [kv_heads, slots, head_dim] and weights [query_heads, head_dim, "
                  "columns], float32, on one device");
  };
  require(values.dim() == 3 && weights.dim() == 3, "values and weights need three dimensions");
  require(values.scalar_type() == at::kFloat && weights.scalar_type() == at::kFloat,
          "values and weights must be float32");
  require(values.device() == weights.device(), "values and weights are on different devices");
  require(values.size(2) == weights.size(1), "head_dim of values and weights differs");
  require(values.size(0) > 0 && weights.size(0) % values.size(0) == 0,
          "query heads are no multiple of KV heads");
  KVSCOPE_CHECK(order == 1 || order == 2, ErrorCode::usage,
                fmt::format("a norm of order {}", order), "projected_norms", "use 1 or 2");
}

/// Sixteen partial sums, so that the loop needs no reordering to be vectorised.
template <bool squares>
float folded(const float* row, std::int64_t columns) {
  constexpr std::int64_t lanes = 16;
  std::array<float, lanes> partial{};
  std::int64_t column = 0;
  for (; column + lanes <= columns; column += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const float x = row[column + lane];
      partial[static_cast<std::size_t>(lane)] += squares ? x * x : std::abs(x);
    }
  }
  float sum = 0;
  for (; column < columns; ++column) {
    sum += squares ? row[column] * row[column] : std::abs(row[column]);
  }
  for (const float part : partial) {
    sum += part;
  }
  return squares ? std::sqrt(sum) : sum;
}

at::Tensor on_cpu(const at::Tensor& values, const at::Tensor& weights, int order) {
  const std::int64_t kv_heads = values.size(0);
  const std::int64_t slots = values.size(1);
  const std::int64_t group = weights.size(0) / kv_heads;
  const std::int64_t columns = weights.size(2);
  const std::int64_t rows = std::clamp<std::int64_t>(
      block_elements / std::max<std::int64_t>(1, group * columns), 16, 256);
  const std::int64_t blocks = (slots + rows - 1) / rows;
  // The group side by side: one product a block serves all its query heads.
  const at::Tensor joined = weights.view({kv_heads, group, values.size(2), columns})
                                .transpose(1, 2)
                                .reshape({kv_heads, values.size(2), group * columns});
  at::Tensor norms = at::empty({weights.size(0), slots}, values.options());
  float* to = norms.mutable_data_ptr<float>();
  at::parallel_for(0, kv_heads * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;  // the mode is per thread
    const at::Tensor products = at::empty({rows, group * columns}, values.options());
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t kv_head = task / blocks;
      const std::int64_t first = task % blocks * rows;
      const std::int64_t count = std::min(rows, slots - first);
      at::Tensor block = products.narrow(0, 0, count);
      at::mm_out(block, values[kv_head].narrow(0, first, count), joined[kv_head]);
      const float* product = block.const_data_ptr<float>();
      for (std::int64_t row = 0; row < count; ++row) {
        for (std::int64_t head = 0; head < group; ++head, product += columns) {
          to[(kv_head * group + head) * slots + first + row] =
              order == 2 ? folded<true>(product, columns) : folded<false>(product, columns);
        }
      }
    }
  });
  return norms;
}

/// A query head at a time, on any device.
at::Tensor plain(const at::Tensor& values, const at::Tensor& weights, int order) {
  at::Tensor norms = at::empty({weights.size(0), values.size(1)}, values.options());
  const std::int64_t group = weights.size(0) / values.size(0);
  for (std::int64_t head = 0; head < weights.size(0); ++head) {
    norms[head].copy_(
        at::linalg_vector_norm(at::matmul(values[head / group], weights[head]), order, {-1}));
  }
  return norms;
}

}  // namespace

at::Tensor projected_norms(const at::Tensor& values, const at::Tensor& weights, int order) {
  check(values, weights, order);
  return values.is_cpu() ? on_cpu(values, weights, order) : plain(values, weights, order);
}

}  // namespace kvscope
