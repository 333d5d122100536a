#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope {
namespace {

/// splitmix64's finaliser: every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

/// Uniform in [0, 1), a function of (seed, step) alone.
double uniform(std::uint64_t seed, int step) {
  const std::uint64_t counter = mix(seed + 0x9e3779b97f4a7c15u) + static_cast<std::uint64_t>(step);
  return static_cast<double>(mix(counter + 0x9e3779b97f4a7c15u) >> 11) * 0x1.0p-53;
}

/// Ids by falling logit, equal logits by rising id; only the first `count` are in order.
std::vector<std::int32_t> best_ids(const float* logits, std::int64_t vocabulary,
                                   std::int64_t count) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(vocabulary));
  std::iota(ids.begin(), ids.end(), 0);
  const auto better = [logits](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), better);
  ids.resize(static_cast<std::size_t>(count));
  return ids;
}

}  // namespace

std::int32_t sample(const at::Tensor& logits, const Sampling& sampling, int step) {
  KVSCOPE_CHECK(logits.defined() && logits.dim() == 1 && logits.numel() > 0, ErrorCode::usage,
                "sampling needs logits of shape [vocabulary]", "sample",
                "run a forward pass first");
  KVSCOPE_CHECK(
      sampling.temperature >= 0 && sampling.top_k >= 0 && sampling.top_p > 0 && sampling.top_p <= 1,
      ErrorCode::usage,
      fmt::format("temperature {}, top-k {}, top-p {}", sampling.temperature, sampling.top_k,
                  sampling.top_p),
      "sampling", "use temperature >= 0, top-k >= 0 and 0 < top-p <= 1");
  const at::Tensor host = logits.to(at::kCPU, at::kFloat).contiguous();
  const float* values = host.const_data_ptr<float>();
  const std::int64_t vocabulary = host.numel();
  if (sampling.temperature == 0) {
    return static_cast<std::int32_t>(std::max_element(values, values + vocabulary) - values);
  }
  const std::int64_t allowed =
      sampling.top_k == 0 ? vocabulary : std::min<std::int64_t>(sampling.top_k, vocabulary);
  const std::vector<std::int32_t> ids = best_ids(values, vocabulary, allowed);
  std::vector<double> cumulative;
  double total = 0;
  for (const std::int32_t id : ids) {
    total += std::exp((values[id] - values[ids.front()]) / sampling.temperature);
    cumulative.push_back(total);
  }
  // top-p: the shortest beginning whose mass reaches it, at least one token.
  const auto end = std::lower_bound(cumulative.begin(), cumulative.end(), sampling.top_p * total);
  const auto last =
      std::min(end - cumulative.begin(), static_cast<std::ptrdiff_t>(cumulative.size()) - 1);
  const double draw = uniform(sampling.seed, step) * cumulative[static_cast<std::size_t>(last)];
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.begin() + last, draw);
  return ids[static_cast<std::size_t>(chosen - cumulative.begin())];
}

}  // namespace kvscope
