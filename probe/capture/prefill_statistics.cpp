#include "prefill_statistics.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/maximum.h>

#include <algorithm>

namespace kvscope::detail {
namespace {

/// `so_far` widened with zeros to as many columns as `next` has.
at::Tensor widened(const at::Tensor& so_far, const at::Tensor& next) {
  return at::constant_pad_nd(so_far, {0, next.size(1) - so_far.size(1)}, 0);
}

}  // namespace

PrefillStatistics::PrefillStatistics(const ModelShape& shape, int layer,
                                     std::vector<int> windows_asked, bool columns)
    : window_sizes_(std::move(windows_asked)), columns_(columns) {
  options_.scale = shape.attention_scale;
  options_.softcap = shape.logit_softcap;
  options_.window = shape.window_of(layer);
}

AttentionWanted PrefillStatistics::wanted(const std::vector<int>& windows, bool columns,
                                          int first_query, int rows, int prompt_tokens) {
  AttentionWanted wanted = AttentionWanted::nothing();
  wanted.columns = wanted.entropy = columns;
  const int widest = windows.empty() ? 1 : windows.back();
  // Windows that reach back into earlier chunks are finished apart, from the queries remembered.
  if (first_query + rows == prompt_tokens && rows >= std::min(widest, prompt_tokens)) {
    wanted.last_query = true;
    wanted.windows = windows;
  }
  return wanted;
}

void PrefillStatistics::add(const LayerRecord& record, int prompt_tokens) {
  const int rows = static_cast<int>(record.queries.size(1));
  AttentionStatsOptions options = options_;
  static_cast<AttentionWanted&>(options) =
      wanted(window_sizes_, columns_, record.first_query, rows, prompt_tokens);
  options.first_query = record.first_query;
  chunk_lse = record.lse;
  if (options.any()) {
    const AttentionStats stats =
        record.stats.has(options)
            ? record.stats
            : attention_stats(record.queries, record.keys, record.lse, options);
    chunk_lse = stats.lse;
    if (columns_) {
      chunk_entropy = stats.entropy;
      add_columns(stats);
    }
    if (options.last_query) {
      finish(stats, prompt_tokens);
      return;
    }
  }
  remember(record);
  if (record.first_query + rows == prompt_tokens) {
    finish_windows(record, prompt_tokens);
  }
}

at::Tensor PrefillStatistics::residual(const at::Tensor& sum, int rows) {
  return at::abs(sum.sum(1, false, at::kDouble) - rows).div_(rows).to(at::kFloat);
}

void PrefillStatistics::finish(const AttentionStats& stats, int prompt_tokens) {
  windows = stats.windows;
  last_query = stats.last_query;
  if (columns_) {
    self_check = residual(sum, prompt_tokens);
  } else if (windows.empty()) {
    self_check = residual(last_query, 1);
  } else {
    self_check = residual(windows.back().sum, windows.back().window);
  }
  tail_queries_.reset();
  tail_lse_.reset();
}

void PrefillStatistics::add_columns(const AttentionStats& stats) {
  if (!sum.defined()) {
    sum = stats.sum;
    sum_squares = stats.sum_squares;
    max = stats.max;
    return;
  }
  sum = widened(sum, stats.sum) + stats.sum;
  sum_squares = widened(sum_squares, stats.sum_squares) + stats.sum_squares;
  max = at::maximum(widened(max, stats.max), stats.max);
}

void PrefillStatistics::remember(const LayerRecord& record) {
  const std::int64_t widest = window_sizes_.empty() ? 1 : window_sizes_.back();
  at::Tensor queries = record.queries;
  at::Tensor lse = chunk_lse;
  if (tail_queries_.defined() && queries.size(1) < widest) {
    queries = at::cat({tail_queries_, queries}, 1);
    lse = lse.defined() ? at::cat({tail_lse_, lse}, 1) : lse;
  }
  const std::int64_t kept = std::min(widest, queries.size(1));
  tail_queries_ = queries.narrow(1, queries.size(1) - kept, kept).clone();
  tail_lse_ = lse.defined() ? lse.narrow(1, lse.size(1) - kept, kept).clone() : lse;
}

void PrefillStatistics::finish_windows(const LayerRecord& record, int prompt_tokens) {
  AttentionStatsOptions options = options_;
  options.first_query = prompt_tokens - static_cast<int>(tail_queries_.size(1));
  options.columns = options.entropy = false;
  options.windows = window_sizes_;
  finish(attention_stats(tail_queries_, record.keys, tail_lse_, options), prompt_tokens);
}

}  // namespace kvscope::detail
