#include "attention_targets.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace kvscope::detail {

ColumnTargets::ColumnTargets(std::int64_t query_heads, std::int64_t rows, std::int64_t tokens,
                             const AttentionWanted& wanted)
    : wanted_(wanted), query_heads_(query_heads), rows_(rows), tokens_(tokens) {
  const int count = static_cast<int>(rows);
  bounds_ = {count};
  for (const int window : wanted.windows) {
    bounds_.push_back(std::max(0, count - window));
  }
  if (wanted.last_query) {
    bounds_.push_back(std::max(0, count - 1));
  }
  if (wanted.columns || wanted.entropy) {
    bounds_.push_back(0);
  }
  std::sort(bounds_.begin(), bounds_.end());
  bounds_.erase(std::unique(bounds_.begin(), bounds_.end()), bounds_.end());
  for (const int window : wanted.windows) {
    add_target(std::max(0, count - window), false);
  }
  if (wanted.last_query) {
    add_target(std::max(0, count - 1), true);
  }
  if (wanted.columns) {
    add_target(0, false);
  }
}

void ColumnTargets::add_target(int first_row, bool sum_only) {
  Target target;
  target.first_segment =
      static_cast<int>(std::find(bounds_.begin(), bounds_.end(), first_row) - bounds_.begin());
  target.sum = at::zeros({query_heads_, tokens_}, at::kFloat);
  if (!sum_only) {
    target.squares = at::zeros({query_heads_, tokens_}, at::kFloat);
    target.largest = at::zeros({query_heads_, tokens_}, at::kFloat);
  }
  targets_.push_back(target);
}

bool ColumnTargets::counts(int segment) const {
  return std::any_of(targets_.begin(), targets_.end(),
                     [segment](const Target& target) { return target.first_segment <= segment; });
}

bool ColumnTargets::wants_squares(int segment) const {
  return std::any_of(targets_.begin(), targets_.end(), [segment](const Target& target) {
    return target.first_segment <= segment && target.squares.defined();
  });
}

void ColumnTargets::add(int segment, std::int64_t query_head, std::int64_t first_key,
                        std::int64_t keys, const float* sum, const float* squares,
                        const float* largest) const {
  for (const Target& target : targets_) {
    if (segment < target.first_segment) {
      continue;
    }
    const std::int64_t at = query_head * tokens_ + first_key;
    float* to_sum = target.sum.mutable_data_ptr<float>() + at;
    for (std::int64_t key = 0; key < keys; ++key) {
      to_sum[key] += sum[key];
    }
    if (!target.squares.defined()) {
      continue;
    }
    float* to_squares = target.squares.mutable_data_ptr<float>() + at;
    float* to_largest = target.largest.mutable_data_ptr<float>() + at;
    for (std::int64_t key = 0; key < keys; ++key) {
      to_squares[key] += squares[key];
      to_largest[key] = std::max(to_largest[key], largest[key]);
    }
  }
}

float* ColumnTargets::only_row(int segment, std::int64_t query_head) const {
  const auto index = static_cast<std::size_t>(segment);
  if (targets_.size() != 1 || targets_.front().squares.defined() ||
      targets_.front().first_segment != segment || segment + 1 != segments() ||
      bounds_[index + 1] - bounds_[index] != 1) {
    return nullptr;
  }
  return targets_.front().sum.mutable_data_ptr<float>() + query_head * tokens_;
}

void ColumnTargets::store(AttentionStats& stats) const {
  auto target = targets_.begin();
  for (const int window : wanted_.windows) {
    stats.windows.push_back(
        {std::min(window, static_cast<int>(rows_)), target->sum, target->squares, target->largest});
    ++target;
  }
  if (wanted_.last_query) {
    stats.last_query = target->sum;
    ++target;
  }
  if (wanted_.columns) {
    stats.sum = target->sum;
    stats.sum_squares = target->squares;
    stats.max = target->largest;
  }
}

at::Tensor self_check(const at::Tensor& sum, std::int64_t rows) {
  at::Tensor residual = at::zeros({sum.size(0)}, at::kFloat);
  const float* from = sum.const_data_ptr<float>();
  for (std::int64_t head = 0; head < sum.size(0) && rows > 0; ++head) {
    double total = 0;
    for (std::int64_t key = 0; key < sum.size(1); ++key) {
      total += from[head * sum.size(1) + key];
    }
    residual.mutable_data_ptr<float>()[head] =
        static_cast<float>(std::abs(total - static_cast<double>(rows)) / static_cast<double>(rows));
  }
  return residual;
}

}  // namespace kvscope::detail
