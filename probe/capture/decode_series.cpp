#include "decode_series.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "datasets.h"
#include "kvscope/core/error.h"
#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {
namespace {

/// Indices of the `count` largest of `size` values, descending; equal values: the lower index
/// first.
std::vector<std::int32_t> largest(const float* values, std::int64_t size, int count) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  const auto middle = order.begin() + std::min<std::int64_t>(count, size);
  std::partial_sort(order.begin(), middle, order.end(), [values](std::int32_t a, std::int32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  });
  order.erase(middle, order.end());
  return order;
}

}  // namespace

DecodeSeries::DecodeSeries(const CaptureRequest& request, const CaptureIndex& index,
                           WriterThread& thread)
    : request_(request), index_(index), thread_(thread) {
  const auto layers = static_cast<std::int64_t>(request.layers.size());
  const ModelShape& shape = index.shape;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto plane = [&](std::int64_t last) {
    return at::full({layers, shape.query_heads, last}, nan, at::kFloat);
  };
  entropy_ = plane(1).squeeze(2);
  lse_ = plane(1).squeeze(2);
  sink_mass_ = plane(1).squeeze(2);
  top_probability_ = plane(decode_top_keys);
  queries_ = plane(shape.head_dim);
  top_key_ = at::full({layers, shape.query_heads, decode_top_keys}, -1, at::kInt);
  slots_ = at::full({layers, shape.kv_heads}, -1, at::kInt);
  keys_ = at::full({layers, shape.kv_heads, shape.head_dim}, nan, at::kFloat);
  values_ = keys_.clone();
}

void DecodeSeries::add_layer(int step, int row, const LayerRecord& record) {
  KVSCOPE_CHECK(row >= 0 && step >= 1 && step <= request_.new_tokens, ErrorCode::failed,
                "a decode step that the capture was not planned for", "recorder",
                "plan more with --new-tokens");
  AttentionStatsOptions options;
  options.scale = index_.shape.attention_scale;
  options.softcap = index_.shape.logit_softcap;
  options.window = index_.shape.window_of(record.layer);
  options.first_query = record.first_query;
  options.columns = false;
  const AttentionStats stats = attention_stats(record.queries, record.keys, record.lse, options);
  const at::Tensor attention = stats.last_query.to(at::kCPU).contiguous();
  entropy_[row].copy_(stats.entropy.select(1, 0));
  lse_[row].copy_(stats.lse.select(1, 0));
  const std::int64_t tokens = attention.size(1);
  sink_mass_[row].copy_(attention.narrow(1, 0, std::min<std::int64_t>(sink_tokens, tokens)).sum(1));
  for (int query_head = 0; query_head < index_.shape.query_heads; ++query_head) {
    const float* values = attention.const_data_ptr<float>() + query_head * tokens;
    auto* keys = top_key_[row][query_head].mutable_data_ptr<std::int32_t>();
    float* probabilities = top_probability_[row][query_head].mutable_data_ptr<float>();
    for (const std::int32_t key : largest(values, tokens, decode_top_keys)) {
      *keys++ = key;
      *probabilities++ = values[key];
    }
  }
  slots_[row].fill_(static_cast<std::int64_t>(record.keys.size(1)));
  queries_[row].copy_(record.queries.select(1, 0));
  keys_[row].copy_(record.keys.select(1, record.keys.size(1) - 1));
  values_[row].copy_(record.values.select(1, record.values.size(1) - 1));
}

void DecodeSeries::put(const char* name, int step, const at::Tensor& values) {
  std::vector<std::int64_t> offset(static_cast<std::size_t>(values.dim()) + 1, 0);
  std::vector<std::int64_t> count = values.sizes().vec();
  offset[0] = step - 1;
  count.insert(count.begin(), 1);
  thread_.put(std::string("steps/") + name, std::move(offset), std::move(count), values.clone());
}

void DecodeSeries::add_step(int step, std::int32_t token, const at::Tensor& logits) {
  put("entropy", step, entropy_);
  put("lse", step, lse_);
  put("sink_mass", step, sink_mass_);
  put("top_key", step, top_key_);
  put("top_probability", step, top_probability_);
  put("cache_slots", step, slots_);
  if (request_.profile == Profile::qkv || request_.profile == Profile::full) {
    put("queries", step, queries_);
    put("keys", step, keys_);
    put("values", step, values_);
  }
  const at::Tensor log_probability =
      at::log_softmax(logits.to(at::kCPU, at::kFloat), 0).contiguous();
  const float* values = log_probability.const_data_ptr<float>();
  at::Tensor ids = at::full({decode_top_logits}, -1, at::kInt);
  at::Tensor top =
      at::full({decode_top_logits}, std::numeric_limits<float>::quiet_NaN(), at::kFloat);
  int rank = 0;
  for (const std::int32_t id : largest(values, log_probability.numel(), decode_top_logits)) {
    ids.mutable_data_ptr<std::int32_t>()[rank] = id;
    top.mutable_data_ptr<float>()[rank++] = values[id];
  }
  put("logit_token", step, ids);
  put("logit_logprob", step, top);
  put("token", step, at::full({}, token, at::kInt));
  const auto now = std::chrono::steady_clock::now();
  put("time_ns", step,
      at::full({}, std::chrono::duration_cast<std::chrono::nanoseconds>(now - start_).count(),
               at::kLong));
  put("stall_ns", step, at::full({}, thread_.stall_ns() - stall_before_, at::kLong));
  stall_before_ = thread_.stall_ns();
}

}  // namespace kvscope::detail
