#include "step_attention.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {
namespace {

StepAttention of_slots(const LayerRecord& record, const ModelShape& shape) {
  const SlotTable& slots = record.slots;
  const at::Tensor masses = record.attention.to(at::kCPU, at::kFloat).contiguous();
  at::Tensor entropies = at::empty({shape.query_heads}, at::kFloat);
  for (int query_head = 0; query_head < shape.query_heads; ++query_head) {
    const float* p = masses.const_data_ptr<float>() + query_head * masses.size(1);
    const std::size_t first = slots.cell(shape.kv_head_of(query_head), 0);
    double entropy = 0;
    for (int slot = 0; slot < slots.slots; ++slot) {
      const auto mass = static_cast<double>(p[slot]);
      const auto count =
          static_cast<double>(slots.multiplicity[first + static_cast<std::size_t>(slot)]);
      entropy -= mass > 0 && count > 0 ? mass * std::log(mass / count) : 0;
    }
    entropies.mutable_data_ptr<float>()[query_head] = static_cast<float>(entropy);
  }
  return {masses,
          {},
          entropies,
          record.lse.select(1, record.lse.size(1) - 1),
          std::make_shared<const SlotTable>(slots)};
}

}  // namespace

StepAttention StepAttentions::of_tokens(const LayerRecord& record, const ModelShape& shape) {
  AttentionStatsOptions options;
  options.scale = shape.attention_scale;
  options.softcap = shape.logit_softcap;
  options.window = shape.window_of(record.layer);
  options.first_query = record.first_query;
  options.columns = false;
  options.last_query = record.stats.top == nullptr;
  const AttentionStats stats =
      record.stats.has(options)
          ? record.stats
          : attention_stats(record.queries, record.keys.to(at::kFloat), record.lse, options);
  StepAttention step;
  if (options.last_query) {
    step.masses = stats.last_query.to(at::kCPU, at::kFloat).contiguous();
    const auto tokens = static_cast<int>(record.keys.size(1));
    if (full_ == nullptr || full_->slots != tokens) {
      full_ = std::make_shared<const SlotTable>(SlotTable::full(shape.kv_heads, tokens));
    }
    step.slots = full_;
  }
  step.top = stats.top;
  step.entropy = stats.entropy;
  step.lse = stats.lse;
  return step;
}

StepAttention StepAttentions::of(const LayerRecord& record, const ModelShape& shape) {
  return record.slots.slots > 0 ? of_slots(record, shape) : of_tokens(record, shape);
}

}  // namespace kvscope::detail
