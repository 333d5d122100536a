#include "kvscope/kernels/greedy_diversity.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <fmt/format.h>

#include <cmath>

#include "greedy_diversity_impl.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr const char* where = "greedy_diversity";

void check_tensor(const at::Tensor& tensor, const char* name, std::int64_t rank) {
  KVSCOPE_CHECK(tensor.dim() == rank && tensor.scalar_type() == at::kFloat && tensor.is_cpu(),
                ErrorCode::usage,
                fmt::format("{} are not a float32 tensor of {} axes on the CPU", name, rank), where,
                "move it with tensor.to(at::kCPU, at::kFloat)");
  KVSCOPE_CHECK(tensor.isfinite().all().item<bool>(), ErrorCode::usage,
                fmt::format("{} hold NaN or infinity", name), where,
                "check the capture for NaN in keys and values: kvscope check");
}

void check(const at::Tensor& scores, const at::Tensor& rows, const at::Tensor& present, int picks,
           const GreedyDiversityOptions& options) {
  KVSCOPE_CHECK(std::isfinite(options.lambda) && options.lambda >= 0, ErrorCode::usage,
                fmt::format("lambda is {}", options.lambda), where, "give 0 or more");
  check_tensor(scores, "scores", 2);
  check_tensor(rows, "rows", 3);
  KVSCOPE_CHECK(rows.size(0) == scores.size(0) && rows.size(1) == scores.size(1), ErrorCode::usage,
                fmt::format("{} x {} scores for {} x {} rows", scores.size(0), scores.size(1),
                            rows.size(0), rows.size(1)),
                where, "give one row for each score");
  if (present.defined()) {
    check_tensor(present, "present rows", 3);
    KVSCOPE_CHECK(present.size(0) == rows.size(0) && present.size(2) == rows.size(2),
                  ErrorCode::usage, "present rows differ from the candidates in units or length",
                  where, "give rows of the same space");
  }
  KVSCOPE_CHECK(picks >= 0 && picks <= scores.size(1), ErrorCode::usage,
                fmt::format("{} picks of {} candidates", picks, scores.size(1)), where,
                "pick at most all of them");
}

}  // namespace

at::Tensor greedy_diversity(const at::Tensor& scores, const at::Tensor& rows,
                            const at::Tensor& present, int picks,
                            const GreedyDiversityOptions& options) {
  check(scores, rows, present, picks, options);
  const at::Tensor plain_scores = scores.contiguous();
  const at::Tensor plain_rows = rows.contiguous();
  const at::Tensor plain_present = present.defined() ? present.contiguous() : at::Tensor();
  const std::int64_t members = present.defined() ? present.size(1) : 0;
  const std::int64_t candidates = rows.size(1);
  const std::int64_t dim = rows.size(2);
  at::Tensor out = at::empty({rows.size(0), picks}, at::kInt);
  auto* order = out.mutable_data_ptr<std::int32_t>();
  at::parallel_for(0, rows.size(0), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t unit = first; unit < last; ++unit) {
      detail::greedy_diversity_cpu(
          {plain_scores.const_data_ptr<float>() + unit * candidates,
           plain_rows.const_data_ptr<float>() + unit * candidates * dim,
           members > 0 ? plain_present.const_data_ptr<float>() + unit * members * dim : nullptr,
           static_cast<int>(candidates), static_cast<int>(members), static_cast<int>(dim), picks,
           order + unit * picks},
          options);
    }
  });
  return out;
}

}  // namespace kvscope
