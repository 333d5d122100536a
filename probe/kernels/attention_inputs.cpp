#include "attention_inputs.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

namespace kvscope::detail {
namespace {

/// Slots rather than tokens: `length` live ones, of which the newest `causal_tail` are causal.
bool counts_slots(const at::Tensor& multiplicity, const at::Tensor& length) {
  return multiplicity.defined() || length.defined();
}

VisibleKeys visible_keys(const ForwardInputs& in, const at::Tensor& length, bool slots,
                         std::int64_t kv_head, const AttentionOptions& options) {
  VisibleKeys visible;
  const std::int64_t live =
      length.defined() ? length.const_data_ptr<std::int32_t>()[kv_head] : in.tokens;
  for (std::int64_t row = 0; row < in.rows; ++row) {
    std::int64_t end = live;
    std::int64_t first = 0;
    if (slots && options.causal_tail > 0) {
      end = std::clamp(live - in.rows + row + 1,
                       std::max<std::int64_t>(0, live - options.causal_tail), live);
    } else if (!slots) {
      const std::int64_t position = options.first_query + row;
      end = std::min(in.tokens, position + 1);
      first = options.window > 0 ? std::max<std::int64_t>(0, position - options.window + 1) : 0;
    }
    visible.first.push_back(static_cast<int>(std::min(first, end)));
    visible.end.push_back(static_cast<int>(end));
  }
  return visible;
}

/// log2 of the multiplicity, padded to whole stripes; empty without one.
std::vector<float> log2_multiplicity(const at::Tensor& multiplicity, const ForwardInputs& in) {
  std::vector<float> bias;
  if (!multiplicity.defined()) {
    return bias;
  }
  const at::Tensor dense = multiplicity.contiguous();
  const float* from = dense.const_data_ptr<float>();
  bias.resize(static_cast<std::size_t>(in.kv_heads * in.bias_stride), 0.0f);
  for (std::int64_t head = 0; head < in.kv_heads; ++head) {
    for (std::int64_t slot = 0; slot < in.tokens; ++slot) {
      bias[static_cast<std::size_t>(head * in.bias_stride + slot)] =
          std::log2(from[head * in.tokens + slot]);
    }
  }
  return bias;
}

}  // namespace

ForwardInputs::ForwardInputs(const at::Tensor& queries_in, const at::Tensor& keys_in,
                             const at::Tensor& values_in, const at::Tensor& multiplicity,
                             const at::Tensor& length, const AttentionOptions& options)
    : query_heads(queries_in.size(0)),
      kv_heads(keys_in.size(0)),
      rows(queries_in.size(1)),
      tokens(keys_in.size(1)),
      head_dim(queries_in.size(2)),
      value_dim(values_in.defined() ? values_in.size(2) : 0),
      group(query_heads / kv_heads),
      queries(queries_in),
      keys(keys_in),
      values(values_in),
      rule(logit_rule(options.scale, options.softcap)),
      bias_stride((tokens + tile::stripe_keys - 1) / tile::stripe_keys * tile::stripe_keys) {
  bias = log2_multiplicity(multiplicity, *this);
  for (std::int64_t head = 0; head < kv_heads; ++head) {
    visible.push_back(
        visible_keys(*this, length, counts_slots(multiplicity, length), head, options));
  }
}

AttentionResult empty_result(const ForwardInputs& in) {
  AttentionResult result;
  if (in.values.defined()) {
    // Stored token by token, so that joining the heads for the output projection copies nothing.
    result.output = at::empty({in.rows, in.query_heads, in.value_dim}, at::kFloat).transpose(0, 1);
  }
  result.lse = at::empty({in.query_heads, in.rows}, at::kFloat);
  return result;
}

tile::ForwardTask forward_task(const ForwardInputs& in, const AttentionResult& result,
                               const PackedKeys& packed, std::int64_t first_head,
                               std::int64_t heads, std::int64_t first_row, std::int64_t rows) {
  const std::int64_t kv_head = first_head / in.group;
  tile::ForwardTask task;
  task.queries = in.queries.const_data_ptr<float>() + first_head * in.queries.stride(0) +
                 first_row * in.queries.stride(1);
  task.head_stride = in.queries.stride(0);
  task.row_stride = in.queries.stride(1);
  task.packed = packed.at(kv_head, 0, in.head_dim);
  task.bias = in.bias.empty() ? nullptr : in.bias.data() + kv_head * in.bias_stride;
  task.rule = in.rule;
  task.head_dim = static_cast<int>(in.head_dim);
  task.group = static_cast<int>(heads);
  task.rows = static_cast<int>(rows);
  task.first_visible = in.visible[static_cast<std::size_t>(kv_head)].first.data() + first_row;
  task.end_visible = in.visible[static_cast<std::size_t>(kv_head)].end.data() + first_row;
  task.lse = result.lse.mutable_data_ptr<float>() + first_head * in.rows + first_row;
  task.lse_head_stride = in.rows;
  if (in.values.defined()) {
    task.values = in.values.const_data_ptr<float>() + kv_head * in.values.stride(0);
    task.value_stride = in.values.stride(1);
    task.value_dim = static_cast<int>(in.value_dim);
    task.output = result.output.mutable_data_ptr<float>() + first_head * result.output.stride(0) +
                  first_row * result.output.stride(1);
    task.output_head_stride = result.output.stride(0);
    task.output_row_stride = result.output.stride(1);
  }
  return task;
}

}  // namespace kvscope::detail
