#include "kvscope/capture/rates.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>

namespace kvscope {
namespace {

/// Seconds of the fastest of some calls of `work`, after one that warms up. On a GPU `work` ends in
/// a copy to the host, which waits for it.
template <typename Work>
double fastest(const Work& work) {
  using Clock = std::chrono::steady_clock;
  work();
  double best = 1e9;
  const auto end = Clock::now() + std::chrono::milliseconds(20);
  for (int turn = 0; turn < 3 || (turn < 50 && Clock::now() < end); ++turn) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace

ComputeRates measure_rates(const std::string& device, const std::string& dtype) {
  const at::NoGradGuard no_grad;
  const at::ScalarType type = dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
  const at::TensorOptions options = at::TensorOptions(type).device(at::Device(device));
  const bool gpu = device != "cpu";
  const std::int64_t size = gpu ? 4096 : 768;
  const std::int64_t wide = gpu ? 8192 : 4096;  // its weights lie beyond the caches
  ComputeRates rates;
  {
    const at::Tensor rows = at::ones({size, size}, options);
    const at::Tensor weights = at::ones({size, size}, options);
    const double seconds =
        fastest([&] { at::linear(rows, weights).select(0, 0).select(0, 0).item<float>(); });
    const auto n = static_cast<double>(size);
    rates.flop_per_second = 2 * n * n * n / seconds;
  }
  const at::Tensor row = at::ones({1, wide}, options);
  const at::Tensor weights = at::ones({wide, wide}, options);
  const double seconds =
      fastest([&] { at::linear(row, weights).select(0, 0).select(0, 0).item<float>(); });
  rates.bytes_per_second = static_cast<double>(weights.nbytes()) / seconds;
  return rates;
}

RunWork work_of(const ModelShape& shape, double matrix_weights, double head_weights,
                int prompt_tokens, int steps, double element_bytes) {
  const auto tokens = static_cast<double>(prompt_tokens);
  const double width = static_cast<double>(shape.query_heads) * shape.head_dim;
  const double cache_row = 2.0 * shape.kv_heads * shape.head_dim * shape.layers;
  RunWork work;
  // Q K and P V: 2 + 2 operations for each of a head's channels and each visible key.
  work.prompt_flop = 2 * matrix_weights * tokens + 4 * width * (tokens * tokens / 2) * shape.layers;
  work.step_bytes =
      element_bytes * (matrix_weights + head_weights + cache_row * (tokens + steps / 2.0));
  work.steps = steps;
  return work;
}

CaptureTime estimate_time(const RunWork& work, const CapturePrice& price,
                          const ComputeRates& rates) {
  CaptureTime time;
  time.prompt = work.prompt_flop / rates.flop_per_second;
  time.statistics = price.extra_flop / rates.flop_per_second + price.extra_passes * time.prompt;
  time.decode = work.steps * work.step_bytes / rates.bytes_per_second;
  return time;
}

}  // namespace kvscope
