#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include "scorers/laprox.h"

namespace kvscope::detail {

at::Tensor mean_column_norm(const at::Tensor& attention, int kv_heads) {
  return attention.unflatten(0, {kv_heads, attention.size(0) / kv_heads})
      .mean(1)
      .square()
      .sum(1)
      .sqrt();
}

at::Tensor summed_projection_norm(const at::Tensor& values, const at::Tensor& output_weights) {
  const std::int64_t kv_heads = values.size(0);
  const at::Tensor summed =
      output_weights.unflatten(0, {kv_heads, output_weights.size(0) / kv_heads}).sum(1);
  const at::Tensor gram = summed.matmul(summed.transpose(1, 2));
  return (values.matmul(gram) * values).sum(-1).clamp_min(0).sqrt();
}

at::Tensor exact_contribution(const at::Tensor& attention, const at::Tensor& values,
                              const at::Tensor& output_weights) {
  const std::int64_t kv_heads = values.size(0);
  const std::int64_t group = attention.size(0) / kv_heads;
  const at::Tensor rows = attention.unflatten(0, {kv_heads, group});  // [g, r, window, tokens]
  const at::Tensor weights = output_weights.unflatten(0, {kv_heads, group});
  at::Tensor square = at::zeros({kv_heads, values.size(1)}, values.options());
  for (std::int64_t first = 0; first < group; ++first) {
    for (std::int64_t second = first; second < group; ++second) {
      const at::Tensor overlap = (rows.select(1, first) * rows.select(1, second)).sum(1);
      const at::Tensor gram =
          weights.select(1, first).matmul(weights.select(1, second).transpose(1, 2));
      const at::Tensor cross = (values.matmul(gram) * values).sum(-1);
      square.add_(overlap * cross, first == second ? 1 : 2);
    }
  }
  return square.clamp_min(0).sqrt();
}

}  // namespace kvscope::detail
