#include "finite_check.h"

#include <ATen/ops/sum.h>
#include <fmt/format.h>

#include <cmath>

#include "kvscope/core/log.h"

namespace kvscope::detail {

void FiniteCheck::see(const at::Tensor& values, const char* what, int layer, int step) {
  if (!first_.empty() || !values.defined() ||
      std::isfinite(at::sum(values, at::kDouble).item<double>())) {
    return;
  }
  first_ = fmt::format("{}{}, {}", layer < 0 ? "" : fmt::format("layer {}, ", layer), what,
                       step == 0 ? "prefill" : fmt::format("step {}", step));
  log_warning("numbers are not finite: " + first_);
}

}  // namespace kvscope::detail
