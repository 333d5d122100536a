#include "cuda_library.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "attention_impl.h"
#include "cuda/kvscope_cuda.h"
#include "kvscope/core/device_library.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

struct Library {
  decltype(&kvscope_cuda_devices) devices = nullptr;
  decltype(&kvscope_cuda_attention_stats) attention_stats = nullptr;
  std::string why_not;
};

Library open_library() {
  // LibTorch's CUDA half first: it registers the allocator and the streams tensors come with.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return {nullptr, nullptr, "libtorch_cuda.so: " + last_loader_error()};
  }
  const DeviceLibrary opened("libkvscope_cuda", KVSCOPE_CUDA_ABI);
  return {opened.function<decltype(kvscope_cuda_devices)>("kvscope_cuda_devices"),
          opened.function<decltype(kvscope_cuda_attention_stats)>("kvscope_cuda_attention_stats"),
          opened.why_not()};
}

const Library& library() {
  static const Library opened = open_library();
  return opened;
}

at::Tensor plane(const at::Tensor& like, std::int64_t columns) {
  return at::zeros({like.size(0), columns}, like.options().dtype(at::kFloat));
}

}  // namespace

bool cuda_available(std::string* why_not) {
  const Library& opened = library();
  std::string reason = opened.why_not;
  bool available = false;
  if (opened.devices != nullptr) {
    std::array<char, 256> text{};
    available = opened.devices(text.data(), static_cast<std::int64_t>(text.size())) > 0;
    reason = available ? std::string() : std::string(text.data());
  }
  if (why_not != nullptr) {
    *why_not = reason;
  }
  return available;
}

namespace detail {

AttentionStats attention_stats_cuda(const at::Tensor& queries, const at::Tensor& keys,
                                    const at::Tensor& lse, const AttentionStatsOptions& options) {
  const Library& opened = library();
  KVSCOPE_CHECK(opened.attention_stats != nullptr, ErrorCode::unsupported,
                fmt::format("built without CUDA, or it cannot be opened ({})", opened.why_not),
                "attention_stats", "configure with -DKVSCOPE_CUDA=ON or pass --device cpu");
  KVSCOPE_CHECK(options.windows.size() + 2 <= KVSCOPE_CUDA_MAX_POPULATIONS, ErrorCode::usage,
                "too many observation windows", "attention_stats");
  const c10::DeviceGuard guard(queries.device());
  const std::int64_t rows = queries.size(1);
  AttentionStats stats;
  stats.lse = lse.defined() ? lse.contiguous() : plane(queries, rows).fill_(-INFINITY);
  kvscope_cuda_attention call{};
  call.queries = queries.const_data_ptr<float>();
  call.query_head_stride = queries.stride(0);
  call.query_row_stride = queries.stride(1);
  call.keys = keys.const_data_ptr<float>();
  call.key_head_stride = keys.stride(0);
  call.key_row_stride = keys.stride(1);
  call.lse = lse.defined() ? stats.lse.const_data_ptr<float>() : nullptr;
  call.lse_out = stats.lse.mutable_data_ptr<float>();
  if (options.entropy) {
    stats.entropy = plane(queries, rows);
    call.entropy = stats.entropy.mutable_data_ptr<float>();
  }
  call.query_heads = queries.size(0);
  call.kv_heads = keys.size(0);
  call.rows = rows;
  call.tokens = keys.size(1);
  call.head_dim = keys.size(2);
  call.first_query = options.first_query;
  call.window = options.window;
  call.scale = static_cast<float>(options.scale);
  call.softcap = static_cast<float>(options.softcap);
  const c10::impl::VirtualGuardImpl device(queries.device().type());
  call.stream = device.getStreamNativeHandle(device.getStream(queries.device()));
  const auto add_population = [&](std::int64_t last_rows) {
    WindowStats window;
    window.window = static_cast<int>(std::min(last_rows, rows));
    window.sum = plane(queries, keys.size(1));
    window.sum_squares = plane(queries, keys.size(1));
    window.max = plane(queries, keys.size(1));
    call.population[call.population_count++] = {
        rows - window.window, window.sum.mutable_data_ptr<float>(),
        window.sum_squares.mutable_data_ptr<float>(), window.max.mutable_data_ptr<float>()};
    return window;
  };
  for (const int window : options.windows) {
    stats.windows.push_back(add_population(window));
  }
  if (options.last_query) {
    stats.last_query = add_population(1).sum;
  }
  if (options.columns) {
    const WindowStats all = add_population(rows);
    stats.sum = all.sum;
    stats.sum_squares = all.sum_squares;
    stats.max = all.max;
  }
  std::array<char, 512> error{};
  KVSCOPE_CHECK(
      opened.attention_stats(&call, error.data(), static_cast<std::int64_t>(error.size())) == 0,
      ErrorCode::failed, std::string(error.data()), "attention_stats on CUDA");
  if (options.columns) {
    const double count = static_cast<double>(rows_that_see(rows, keys.size(1), options));
    stats.self_check =
        count > 0 ? ((stats.sum.sum(1, false, at::kDouble) - count).abs() / count).to(at::kFloat)
                  : at::zeros({queries.size(0)}, stats.sum.options());
  }
  return stats;
}

}  // namespace detail
}  // namespace kvscope
