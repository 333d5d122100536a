#include "query_filters.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <tuple>

namespace kvscope::detail {

QueryFilters::QueryFilters(int layers, std::int64_t total)
    : rows_(static_cast<std::size_t>(layers)), left_(total), wanted_(std::min(sample, total)) {}

void QueryFilters::next_piece(std::int64_t rows) {
  std::vector<std::int64_t> chosen;
  for (std::int64_t row = 0; row < rows; ++row, --left_) {
    // Each row with the chance that leaves every sample equally likely (Knuth, algorithm S).
    const double draw = static_cast<double>(draws_() >> 11) * 0x1p-53;
    if (draw * static_cast<double>(left_) < static_cast<double>(wanted_)) {
      chosen.push_back(row);
      --wanted_;
    }
  }
  chosen_ = at::tensor(chosen, at::kLong);
}

void QueryFilters::add(int layer, const at::Tensor& queries) {
  rows_[static_cast<std::size_t>(layer)].push_back(
      queries.index_select(1, chosen_.to(queries.device())).to(at::kCPU, at::kFloat));
}

std::int64_t QueryFilters::rows(int layer) const {
  std::int64_t count = 0;
  for (const at::Tensor& piece : rows_[static_cast<std::size_t>(layer)]) {
    count += piece.size(1);
  }
  return count;
}

at::Tensor QueryFilters::filter(int layer, int kv_heads) const {
  const at::Tensor rows = at::cat(rows_[static_cast<std::size_t>(layer)], 1).to(at::kDouble);
  const at::Tensor vectors = std::get<1>(at::linalg_eigh(rows.transpose(1, 2).matmul(rows)));
  const at::Tensor first = vectors.select(2, vectors.size(2) - 1);  // [query_heads, head_dim]
  const at::Tensor along = rows.matmul(first.unsqueeze(2)).squeeze(2);
  const at::Tensor positive = along.gt(0).sum(1, /*keepdim=*/true, at::kDouble);
  const at::Tensor filters =
      at::where(positive > static_cast<double>(rows.size(1)) / 2, first.neg(), first);
  return filters.unflatten(0, {kv_heads, filters.size(0) / kv_heads}).mean(1);
}

}  // namespace kvscope::detail
