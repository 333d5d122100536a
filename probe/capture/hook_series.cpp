#include "hook_series.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>

#include "chosen_rows.h"
#include "hook_datasets.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope::detail {

bool HookSeries::wants(HookPoint point, bool prompt) const {
  const bool asked =
      std::find(request_.hooks.begin(), request_.hooks.end(), point) != request_.hooks.end();
  return asked &&
         (prompt ? choice_.steps.prompt && stores_hook_rows(point) : stores_hook_steps(point));
}

bool HookSeries::wants_tokens(int first_token, std::int64_t count) const {
  const auto found =
      std::lower_bound(choice_.hook_tokens.begin(), choice_.hook_tokens.end(), first_token);
  return found != choice_.hook_tokens.end() && *found < first_token + count;
}

at::Tensor HookSeries::chosen_heads(HookPoint point, const at::Tensor& tensor) const {
  switch (hook_axes(point)) {
    case HookAxes::query_heads:
      return chosen_rows(tensor, 0, choice_.query_heads);
    case HookAxes::kv_heads:
      return chosen_rows(tensor, 0, choice_.kv_heads);
    default:
      return tensor;
  }
}

void HookSeries::put_rows(const std::string& dataset, int first_token, const at::Tensor& tensor) {
  const std::int64_t axis = tensor.dim() - 2;
  const std::int64_t rows = tensor.size(axis);
  const std::vector<int>& tokens = choice_.hook_tokens;
  const auto first = std::lower_bound(tokens.begin(), tokens.end(), first_token);
  const auto last = std::lower_bound(first, tokens.end(), first_token + static_cast<int>(rows));
  if (first == last) {
    return;
  }
  std::vector<int> local;
  std::transform(first, last, std::back_inserter(local),
                 [first_token](int token) { return token - first_token; });
  at::Tensor chosen = chosen_rows(tensor, axis, local);
  chosen = chosen.to(at::kCPU, at::kFloat, false, true).contiguous();
  std::vector<std::int64_t> offset(static_cast<std::size_t>(chosen.dim()), 0);
  offset[static_cast<std::size_t>(axis)] = first - tokens.begin();
  std::vector<std::int64_t> count = chosen.sizes().vec();
  thread_.put(dataset, std::move(offset), std::move(count), std::move(chosen));
}

void HookSeries::add_prompt(HookPoint point, int layer, int first_token, const at::Tensor& tensor) {
  put_rows(hook_dataset(point, layer), first_token, chosen_heads(point, tensor));
}

void HookSeries::add_keys_gradient(int layer, const at::Tensor& gradient) {
  put_rows(layer_dataset(layer, "keys_gradient"), 0, chosen_rows(gradient, 0, choice_.kv_heads));
}

void HookSeries::add_step(HookPoint point, int row, const at::Tensor& tensor) {
  const at::Tensor newest =
      chosen_heads(point, tensor.select(tensor.dim() - 2, -1)).to(at::kCPU, at::kFloat);
  if (of_model(point)) {
    step_[point] = newest.clone();
    return;
  }
  at::Tensor& gathered = step_[point];
  if (!gathered.defined()) {
    std::vector<std::int64_t> extent = newest.sizes().vec();
    extent.insert(extent.begin(), std::ssize(choice_.layers));
    gathered = at::full(extent, std::numeric_limits<float>::quiet_NaN(), at::kFloat);
  }
  gathered[row].copy_(newest);
}

void HookSeries::end_step(int series_row) {
  for (auto& [point, values] : step_) {
    std::vector<std::int64_t> offset(static_cast<std::size_t>(values.dim()) + 1, 0);
    offset[0] = series_row;
    std::vector<std::int64_t> count = values.sizes().vec();
    count.insert(count.begin(), 1);
    thread_.put(std::string("steps/") + hook_name(point), std::move(offset), std::move(count),
                std::move(values));
  }
  step_.clear();
}

}  // namespace kvscope::detail
