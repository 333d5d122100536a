#include "finite_check.h"

#include <ATen/Parallel.h>
#include <ATen/ops/sum.h>
#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <cstdint>

#include "kvscope/core/log.h"

namespace kvscope::detail {
namespace {

bool all_finite(const at::Tensor& values) {
  if (!values.is_cpu() || values.scalar_type() != at::kFloat || !values.is_contiguous()) {
    return std::isfinite(at::sum(values, at::kDouble).item<double>());
  }
  constexpr std::uint32_t exponent = 0x7f800000;
  constexpr std::int64_t grain = 16384;  // less is done before another thread is awake
  const auto* bits = reinterpret_cast<const std::uint32_t*>(values.const_data_ptr<float>());
  std::atomic<bool> finite = true;
  at::parallel_for(0, values.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t found = 0;
    for (std::int64_t index = begin; index < end; ++index) {
      found |= (bits[index] & exponent) == exponent ? 1U : 0U;
    }
    if (found != 0) {
      finite = false;
    }
  });
  return finite;
}

}  // namespace

void FiniteCheck::see(const at::Tensor& values, const char* what, int layer, int step) {
  if (!first_.empty() || !values.defined() || all_finite(values)) {
    return;
  }
  first_ = fmt::format("{}{}, {}", layer < 0 ? "" : fmt::format("layer {}, ", layer), what,
                       step == 0 ? "prefill" : fmt::format("step {}", step));
  log_warning("numbers are not finite: " + first_);
}

}  // namespace kvscope::detail
