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

void DecodeSeries::see_tokens(int row, const LayerRecord& record) {
  AttentionStatsOptions options;
  options.scale = index_.shape.attention_scale;
  options.softcap = index_.shape.logit_softcap;
  options.window = index_.shape.window_of(record.layer);
  options.first_query = record.first_query;
  options.columns = false;
  const AttentionStats stats = attention_stats(record.queries, record.keys, record.lse, options);
  entropy_[row].copy_(stats.entropy.select(1, 0));
  lse_[row].copy_(stats.lse.select(1, 0));
  const auto tokens = static_cast<int>(record.keys.size(1));
  put_attention(row, stats.last_query, SlotTable::full(index_.shape.kv_heads, tokens));
}

/// Entropy as if a merged slot were as many equal tokens.
void DecodeSeries::see_slots(int row, const LayerRecord& record) {
  const SlotTable& slots = record.slots;
  const at::Tensor attention = record.attention.to(at::kCPU, at::kFloat).contiguous();
  for (int query_head = 0; query_head < index_.shape.query_heads; ++query_head) {
    const float* p = attention.const_data_ptr<float>() + query_head * attention.size(1);
    const std::size_t first = slots.cell(index_.shape.kv_head_of(query_head), 0);
    double entropy = 0;
    for (int slot = 0; slot < slots.slots; ++slot) {
      const auto mass = static_cast<double>(p[slot]);
      const auto count =
          static_cast<double>(slots.multiplicity[first + static_cast<std::size_t>(slot)]);
      entropy -= mass > 0 && count > 0 ? mass * std::log(mass / count) : 0;
    }
    entropy_[row][query_head].fill_(entropy);
  }
  lse_[row].copy_(record.lse.select(1, record.lse.size(1) - 1));
  put_attention(row, attention, slots);
}

void DecodeSeries::put_attention(int row, const at::Tensor& masses, const SlotTable& slots) {
  const at::Tensor attention = masses.to(at::kCPU, at::kFloat).contiguous();
  for (int query_head = 0; query_head < index_.shape.query_heads; ++query_head) {
    const int kv_head = index_.shape.kv_head_of(query_head);
    const float* values = attention.const_data_ptr<float>() + query_head * attention.size(1);
    const std::int32_t* token = slots.token.data() + slots.cell(kv_head, 0);
    const int length = slots.length[static_cast<std::size_t>(kv_head)];
    double sinks = 0;
    for (int slot = 0; slot < length && token[slot] < sink_tokens; ++slot) {
      sinks += static_cast<double>(values[slot]);
    }
    sink_mass_[row][query_head].fill_(sinks);
    top_key_[row][query_head].fill_(-1);
    top_probability_[row][query_head].fill_(std::numeric_limits<float>::quiet_NaN());
    auto* keys = top_key_[row][query_head].mutable_data_ptr<std::int32_t>();
    float* probabilities = top_probability_[row][query_head].mutable_data_ptr<float>();
    for (const std::int32_t slot : largest(values, length, decode_top_keys)) {
      *keys++ = token[slot];
      *probabilities++ = values[slot];
    }
  }
}

void DecodeSeries::add_layer(int step, int row, const LayerRecord& record) {
  KVSCOPE_CHECK(row >= 0 && step >= 1 && step <= request_.new_tokens, ErrorCode::failed,
                "a decode step that the capture was not planned for", "recorder",
                "plan more with --new-tokens");
  const bool cut = record.slots.slots > 0;
  if (cut) {
    see_slots(row, record);
  } else {
    see_tokens(row, record);
  }
  queries_[row].copy_(record.queries.select(1, 0));
  for (int kv_head = 0; kv_head < index_.shape.kv_heads; ++kv_head) {
    const std::int64_t length =
        cut ? record.slots.length[static_cast<std::size_t>(kv_head)] : record.keys.size(1);
    slots_[row][kv_head].fill_(length);
    keys_[row][kv_head].copy_(record.keys[kv_head][length - 1]);
    values_[row][kv_head].copy_(record.values[kv_head][length - 1]);
  }
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
