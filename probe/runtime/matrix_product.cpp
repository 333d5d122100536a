#include "matrix_product.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>
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
  if (!__builtin_cpu_is("amd") || !__builtin_cpu_supports("avx2")) {
    return {};
  }
  const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  if (found && found->hasKernelForDispatchKey(c10::DispatchKey::CPU)) {
    return found->typed<Linear>();
  }
#endif
  return {};
}

/// Whether products in bfloat16 are slower than the same in float32, conversions included. LibTorch
/// has loops over single numbers where there is no AVX-512; oneDNN imitates the dot product where
/// AVX-512 has none, and Intel's, outside AMX, does half the operations of a float32 multiply-add
/// in its time (81 against 170 GFLOP/s a core on Emerald Rapids).
bool bfloat16_is_slow() {
#if defined(__x86_64__)
  static const bool fast =
      __builtin_cpu_supports("avx512bf16") && (__builtin_cpu_is("amd") || at::cpu::init_amx());
  return !fast;
#else
  return false;
#endif
}

std::optional<at::Tensor> maybe(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

at::Tensor float_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  static const std::optional<c10::TypedOperatorHandle<Linear>> linear = find_linear();
  if (linear && x.size(0) >= fewest_rows) {
    return linear->call(x, weight, maybe(bias), "none", c10::List<std::optional<at::Scalar>>(), "");
  }
  return at::linear(x, weight, maybe(bias));
}

/// x weight^T + bias of bfloat16 matrices in float32, a tile of rows of the weight at a time;
/// rounded once, as products in bfloat16 are.
at::Tensor product_in_float(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  constexpr std::int64_t tile_rows = 1024;
  const std::int64_t rows = weight.size(0);
  const at::Tensor values = x.to(at::kFloat);
  at::Tensor out = at::empty({x.size(0), rows}, x.options());
  for (std::int64_t first = 0; first < rows; first += tile_rows) {
    const std::int64_t count = std::min(tile_rows, rows - first);
    const at::Tensor added =
        bias.defined() ? bias.narrow(0, first, count).to(at::kFloat) : at::Tensor();
    out.narrow(1, first, count)
        .copy_(float_product(values, weight.narrow(0, first, count).to(at::kFloat), added));
  }
  return out;
}

}  // namespace

at::Tensor matrix_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (x.is_cpu() && x.scalar_type() == at::kFloat) {
    return float_product(x, weight, bias);
  }
  if (x.is_cpu() && x.scalar_type() == at::kBFloat16 && bfloat16_is_slow()) {
    return product_in_float(x, weight, bias);
  }
  return at::linear(x, weight, maybe(bias));
}

}  // namespace kvscope::detail
