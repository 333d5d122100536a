#include "back_pressure.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "kvscope/core/hook_point.h"
#include "kvscope/core/log.h"

namespace kvscope::detail {
namespace {

constexpr std::int64_t widest_stride = 1024;
/// Steps written at a stride before it is halved.
constexpr std::int64_t relaxing_steps = 8;

}  // namespace

WriteClass class_of(const std::string& dataset) {
  if (dataset.starts_with("layers/") || dataset.starts_with("model/") ||
      (dataset.starts_with("snapshots/") && dataset != "snapshots/step")) {
    return WriteClass::bulk;
  }
  if (!dataset.starts_with("steps/")) {
    return WriteClass::fact;
  }
  const std::string name = dataset.substr(6);
  if (name == "token" || name.ends_with("_ns")) {
    return WriteClass::fact;
  }
  constexpr std::string_view series[] = {"entropy",
                                         "lse",
                                         "sink_mass",
                                         "evicted_mass",
                                         "top_key",
                                         "top_probability",
                                         "cache_slots",
                                         "logit_token",
                                         "logit_logprob",
                                         "head_output_norm",
                                         "received_by_segment"};
  const bool numbers = std::find(std::begin(series), std::end(series), name) != std::end(series);
  return numbers ? WriteClass::series : WriteClass::bulk;  // rows of tensors at hook points
}

bool BackPressure::skips(std::int64_t step, bool relaxed) {
  if (stride_ == 1) {
    return false;
  }
  if (relaxed && step % stride_ == 0 && step - changed_at_ >= relaxing_steps * stride_) {
    stride_ /= 2;
    changed_at_ = step;
  }
  return step % stride_ != 0;
}

void BackPressure::widen(std::int64_t step) {
  if (step == changed_at_ || stride_ >= widest_stride) {
    return;  // once a step
  }
  stride_ *= 2;
  changed_at_ = step;
  log_warning(
      fmt::format("the disk is slower than the run: series of every {} step only, from "
                  "step {} on",
                  stride_ == 2 ? "2nd" : fmt::format("{}th", stride_), step));
}

void BackPressure::note(const std::string& dataset, std::int64_t step, std::int64_t bytes,
                        std::int64_t reason) {
  const std::int64_t layer =
      dataset.starts_with("layers/") ? std::stoll(dataset.substr(7)) : std::int64_t{-1};
  const DroppedRange fresh{dataset, static_cast<int>(layer), step, step, 0, reason};
  DroppedRange& range = open_.try_emplace({dataset, reason}, fresh).first->second;
  range.first_step = std::min(range.first_step, step);
  range.last_step = std::max(range.last_step, step);
  range.bytes += bytes;
  dropped_bytes_ += bytes;
}

std::vector<DroppedRange> BackPressure::take() {
  std::vector<DroppedRange> ranges;
  for (auto& [key, range] : open_) {
    ranges.push_back(std::move(range));
  }
  open_.clear();
  return ranges;
}

}  // namespace kvscope::detail
