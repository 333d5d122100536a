#include "matrix_product.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/linear.h>

#include <optional>
#include <string_view>

namespace kvscope::detail {
namespace {

using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                          std::string_view, c10::List<std::optional<at::Scalar>>,
                          std::optional<std::string_view>);

/// Rows below which starting oneDNN costs more than it saves.
constexpr std::int64_t fewest_rows = 8;

/// LibTorch's operator that is oneDNN's product whatever the type; absent from some builds of it.
std::optional<c10::TypedOperatorHandle<Linear>> find_linear() {
#if defined(__x86_64__)
  if (!__builtin_cpu_is("amd") || !__builtin_cpu_supports("avx512f")) {
    return {};
  }
  const auto found =
      c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  if (found && found->hasKernelForDispatchKey(c10::DispatchKey::CPU)) {
    return found->typed<Linear>();
  }
#endif
  return {};
}

}  // namespace

at::Tensor matrix_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const std::optional<at::Tensor> added =
      bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt;
  if (x.is_cpu() && x.scalar_type() == at::kFloat && x.size(0) >= fewest_rows) {
    static const std::optional<c10::TypedOperatorHandle<Linear>> linear = find_linear();
    if (linear) {
      return linear->call(x, weight, added, "none", c10::List<std::optional<at::Scalar>>(), "");
    }
  }
  return at::linear(x, weight, added);
}

}  // namespace kvscope::detail
