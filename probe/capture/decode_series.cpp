#include "decode_series.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "chosen_rows.h"
#include "datasets.h"
#include "kvscope/kernels/largest.h"
#include "kvscope/kernels/projected_norms.h"
#include "segments.h"

namespace kvscope::detail {

TopLogits top_logits(const at::Tensor& logits) {
  const at::Tensor dense = logits.to(at::kCPU, at::kFloat).contiguous();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  TopLogits top{at::full({decode_top_logits}, -1, at::kInt),
                at::full({decode_top_logits}, nan, at::kFloat)};
  auto* token = top.token.mutable_data_ptr<std::int32_t>();
  auto* log_probability = top.log_probability.mutable_data_ptr<float>();
  for (const RankedValue& best :
       largest_log_probabilities(dense.const_data_ptr<float>(), dense.numel(), decode_top_logits)) {
    *token++ = best.index;
    *log_probability++ = best.value;
  }
  return top;
}

DecodeSeries::DecodeSeries(const CaptureRequest& request, const CaptureIndex& index,
                           const CaptureChoice& choice, WriterThread& thread,
                           std::function<at::Tensor(int layer)> output_factor, at::Tensor segments)
    : request_(request),
      index_(index),
      choice_(choice),
      thread_(thread),
      output_factor_(std::move(output_factor)),
      segments_(std::move(segments)) {
  const auto layers = static_cast<std::int64_t>(request.layers.size());
  const ModelShape& shape = index.shape;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto plane = [&](std::int64_t last) {
    return at::full({layers, shape.query_heads, last}, nan, at::kFloat);
  };
  entropy_ = plane(1).squeeze(2);
  lse_ = plane(1).squeeze(2);
  sink_mass_ = plane(1).squeeze(2);
  head_output_norm_ = plane(1).squeeze(2);
  evicted_mass_ = plane(1).squeeze(2);
  by_segment_ = plane(segment_columns);
  top_probability_ = plane(decode_top_keys);
  queries_ = plane(shape.head_dim);
  top_key_ = at::full({layers, shape.query_heads, decode_top_keys}, -1, at::kInt);
  slots_ = at::full({layers, shape.kv_heads}, -1, at::kInt);
  keys_ = at::full({layers, shape.kv_heads, shape.head_dim}, nan, at::kFloat);
  values_ = keys_.clone();
}

AttentionWanted DecodeSeries::wanted() const {
  AttentionWanted wanted = AttentionWanted::nothing();
  wanted.entropy = true;
  wanted.last_query = request_.attention_row || segments_.defined();
  if (!wanted.last_query) {
    wanted.last_top = decode_top_keys;
    wanted.last_sinks = sink_tokens;
  }
  return wanted;
}

namespace {

bool readable(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat;
}

/// Writes `from` over the floats of `to` from its row `row` on. Through pointers: an operator of
/// the tensor library takes longer than all of a head's numbers.
void set_row(const at::Tensor& to, std::int64_t row, const at::Tensor& from) {
  const at::Tensor dense =
      readable(from) && from.is_contiguous() ? from : from.to(at::kCPU, at::kFloat).contiguous();
  std::copy_n(dense.const_data_ptr<float>(), dense.numel(),
              to.mutable_data_ptr<float>() + row * to.stride(0));
}

/// Likewise of row `index` of every head of `from` [heads, rows, head_dim].
void set_heads(const at::Tensor& to, std::int64_t row, const at::Tensor& from, std::int64_t index) {
  if (!readable(from) || from.stride(2) != 1) {
    set_row(to, row, from.select(1, index));
    return;
  }
  float* at = to.mutable_data_ptr<float>() + row * to.stride(0);
  for (std::int64_t head = 0; head < from.size(0); ++head, at += from.size(2)) {
    std::copy_n(from.const_data_ptr<float>() + head * from.stride(0) + index * from.stride(1),
                from.size(2), at);
  }
}

}  // namespace

void DecodeSeries::put_attention(int row, const StepAttention& attention) {
  if (!attention.masses.defined()) {  // the kernel looked for them; a full cache's slots are tokens
    const auto copy = [row](const auto& from, auto* to) {
      std::copy(from.begin(), from.end(), to + row * std::ssize(from));
    };
    copy(attention.top->sink_mass, sink_mass_.mutable_data_ptr<float>());
    copy(attention.top->probability, top_probability_.mutable_data_ptr<float>());
    copy(attention.top->key, top_key_.mutable_data_ptr<std::int32_t>());
    return;
  }
  // Few masses are still in this thread's caches, where the kernel that wrote them left them.
  constexpr std::int64_t few = 65536;
  const std::int64_t heads = index_.shape.query_heads;
  const std::int64_t grain = heads * attention.masses.size(1) < few ? heads : 1;
  at::parallel_for(0, heads, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t query_head = begin; query_head < end; ++query_head) {
      put_head(row, static_cast<int>(query_head), attention);
    }
  });
}

void DecodeSeries::put_head(int row, int query_head, const StepAttention& attention) {
  const SlotTable& slots = *attention.slots;
  const int kv_head = index_.shape.kv_head_of(query_head);
  const float* values =
      attention.masses.const_data_ptr<float>() + query_head * attention.masses.size(1);
  const std::int32_t* token = slots.token.data() + slots.cell(kv_head, 0);
  const int length = slots.length[static_cast<std::size_t>(kv_head)];
  double sinks = 0;
  for (int slot = 0; slot < length && token[slot] < sink_tokens; ++slot) {
    sinks += static_cast<double>(values[slot]);
  }
  // Through pointers: an operator of the tensor library takes longer than all of a head's numbers.
  const std::int64_t cell = std::int64_t{row} * index_.shape.query_heads + query_head;
  sink_mass_.mutable_data_ptr<float>()[cell] = static_cast<float>(sinks);
  auto* keys = top_key_.mutable_data_ptr<std::int32_t>() + cell * decode_top_keys;
  float* probabilities = top_probability_.mutable_data_ptr<float>() + cell * decode_top_keys;
  std::fill_n(keys, decode_top_keys, -1);
  std::fill_n(probabilities, decode_top_keys, std::numeric_limits<float>::quiet_NaN());
  const ScaledValues all{values, length, 0, 1, nullptr};
  for (const RankedValue& best : largest({&all, 1}, decode_top_keys)) {
    *keys++ = token[best.index];
    *probabilities++ = best.value;
  }
}

at::Tensor DecodeSeries::by_token(const StepAttention& attention, int tokens) const {
  const SlotTable& slots = *attention.slots;
  at::Tensor rows = at::zeros({index_.shape.query_heads, tokens}, at::kFloat);
  for (int query_head = 0; query_head < index_.shape.query_heads; ++query_head) {
    const int kv_head = index_.shape.kv_head_of(query_head);
    const float* mass =
        attention.masses.const_data_ptr<float>() + query_head * attention.masses.size(1);
    float* row = rows.mutable_data_ptr<float>() + static_cast<std::int64_t>(query_head) * tokens;
    for (int slot = 0; slot < slots.length[static_cast<std::size_t>(kv_head)]; ++slot) {
      row[slots.token[slots.cell(kv_head, slot)]] = mass[slot];
    }
  }
  return rows;
}

namespace {

/// The newest row of every head's slots: [kv_heads, head_dim].
at::Tensor newest_rows(const at::Tensor& rows, const SlotTable& slots) {
  at::Tensor newest = at::empty({rows.size(0), rows.size(2)}, rows.options());
  for (int kv_head = 0; kv_head < slots.kv_heads; ++kv_head) {
    newest[kv_head].copy_(rows[kv_head][slots.length[static_cast<std::size_t>(kv_head)] - 1]);
  }
  return newest;
}

}  // namespace

void DecodeSeries::add_layer(int series_row, int row, const LayerRecord& record,
                             const StepAttention& attention) {
  set_row(entropy_, row, attention.entropy);
  set_row(lse_, row, attention.lse);
  put_attention(row, attention);
  const int seen = record.first_query + 1;
  if (request_.attention_row || segments_.defined()) {
    const at::Tensor rows = by_token(attention, seen);
    if (request_.attention_row) {
      const at::Tensor chosen = chosen_rows(rows, 0, choice_.query_heads);
      thread_.put("steps/attention_row", {series_row, row, 0, 0}, {1, 1, chosen.size(0), seen},
                  chosen);
    }
    if (segments_.defined()) {
      set_row(by_segment_, row, rows.mm(segments_.narrow(0, 0, seen)));
    }
  }
  if (request_.head_output_norm) {
    const at::Tensor factor = output_factor_(record.layer).to(at::kCPU, at::kFloat);
    const at::Tensor newest = record.output.narrow(1, record.output.size(1) - 1, 1);
    set_row(head_output_norm_, row,
            projected_norms(newest.to(at::kCPU, at::kFloat).contiguous(), factor, 2));
  }
  const SlotTable* slots = attention.slots.get();  // null: every token has its slot
  auto* live = slots_.mutable_data_ptr<std::int32_t>() + std::int64_t{row} * index_.shape.kv_heads;
  if (slots == nullptr) {
    std::fill_n(live, index_.shape.kv_heads, static_cast<std::int32_t>(record.keys.size(1)));
  } else {
    std::copy(slots->length.begin(), slots->length.end(), live);
  }
  if (!stores_tensors()) {
    return;
  }
  set_heads(queries_, row, record.queries, 0);
  if (slots == nullptr || slots->uniform()) {
    const std::int64_t newest = record.keys.size(1) - 1;
    set_heads(keys_, row, record.keys, newest);
    set_heads(values_, row, record.values, newest);
  } else {
    set_row(keys_, row, newest_rows(record.keys, *slots));
    set_row(values_, row, newest_rows(record.values, *slots));
  }
}

namespace {

/// A copy that a plane of the next step does not overwrite.
at::Tensor copy_of(const at::Tensor& plane) {
  if (!plane.is_contiguous()) {
    return plane.clone(at::MemoryFormat::Contiguous);
  }
  at::Tensor copy = at::empty(plane.sizes(), plane.options());
  std::memcpy(copy.mutable_data_ptr(), plane.const_data_ptr(), plane.nbytes());
  return copy;
}

}  // namespace

void DecodeSeries::put(const char* name, int series_row, const at::Tensor& values) {
  std::vector<std::int64_t> offset(static_cast<std::size_t>(values.dim()) + 1, 0);
  std::vector<std::int64_t> count = values.sizes().vec();
  offset[0] = series_row;
  count.insert(count.begin(), 1);
  thread_.put(std::string("steps/") + name, std::move(offset), std::move(count), copy_of(values));
}

void DecodeSeries::add_step(int series_row, std::int32_t token, const at::Tensor& logits) {
  const auto put_query_heads = [&](const char* name, const at::Tensor& values) {
    put(name, series_row, chosen_rows(values, 1, choice_.query_heads));
  };
  const auto put_kv_heads = [&](const char* name, const at::Tensor& values) {
    put(name, series_row, chosen_rows(values, 1, choice_.kv_heads));
  };
  put_query_heads("entropy", entropy_);
  put_query_heads("lse", lse_);
  put_query_heads("sink_mass", sink_mass_);
  if (request_.head_output_norm) {
    put_query_heads("head_output_norm", head_output_norm_);
  }
  if (request_.evicted_mass) {
    put_query_heads("evicted_mass", evicted_mass_);
  }
  if (segments_.defined()) {
    put_query_heads("received_by_segment", by_segment_);
  }
  put_query_heads("top_key", top_key_);
  put_query_heads("top_probability", top_probability_);
  put_kv_heads("cache_slots", slots_);
  if (stores_tensors()) {
    put_query_heads("queries", queries_);
    put_kv_heads("keys", keys_);
    put_kv_heads("values", values_);
  }
  if (logits.defined()) {
    const TopLogits top = top_logits(logits);
    put("logit_token", series_row, top.token);
    put("logit_logprob", series_row, top.log_probability);
  }
  put("token", series_row, at::full({}, token, at::kInt));
  const auto now = std::chrono::steady_clock::now();
  put("time_ns", series_row,
      at::full({}, std::chrono::duration_cast<std::chrono::nanoseconds>(now - start_).count(),
               at::kLong));
  put("stall_ns", series_row, at::full({}, thread_.stall_ns() - stall_before_, at::kLong));
  stall_before_ = thread_.stall_ns();
}

}  // namespace kvscope::detail
