#include "attention_rows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/log.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <limits>

namespace kvscope::detail {
namespace {

/// Positions of the slots [kv_heads, slots]; cells that are not live lie behind every query.
at::Tensor slot_positions(const SlotTable& table) {
  at::Tensor positions = at::empty({table.kv_heads, table.slots}, at::kInt);
  int* out = positions.mutable_data_ptr<int>();
  for (int kv_head = 0; kv_head < table.kv_heads; ++kv_head) {
    for (int slot = 0; slot < table.slots; ++slot) {
      const bool live = slot < table.length[static_cast<std::size_t>(kv_head)];
      *out++ = live ? table.position[table.cell(kv_head, slot)] : std::numeric_limits<int>::max();
    }
  }
  return positions;
}

/// Logits of queries [query_heads, rows, head_dim] over the slots: [kv_heads, group, rows, slots],
/// -inf where a query sees nothing.
at::Tensor slot_logits(const at::Tensor& queries, std::span<const std::int32_t> positions,
                       const LayerState& state, const ModelShape& shape, int layer) {
  const SlotTable table = state.slots();
  const std::int64_t rows = queries.size(1);
  const at::Device device = queries.device();
  const at::Tensor grouped = queries.reshape({shape.kv_heads, -1, shape.head_dim});
  at::Tensor logits = at::matmul(grouped, state.keys().to(at::kFloat).transpose(1, 2));
  logits.mul_(shape.attention_scale);
  if (shape.logit_softcap > 0) {
    logits.div_(shape.logit_softcap).tanh_().mul_(shape.logit_softcap);
  }
  logits = logits.view({shape.kv_heads, shape.group_size(), rows, table.slots});
  const at::Tensor counts = state.multiplicity();
  if (counts.defined()) {
    logits.add_(at::log(counts).view({shape.kv_heads, 1, 1, table.slots}));
  }
  at::Tensor query_position = at::empty({rows}, at::kInt);
  std::copy(positions.begin(), positions.end(), query_position.mutable_data_ptr<int>());
  query_position = query_position.to(device).view({1, 1, rows, 1});
  const at::Tensor slot_position =
      slot_positions(table).to(device).view({shape.kv_heads, 1, 1, table.slots});
  at::Tensor hidden = slot_position.gt(query_position);
  if (const int window = shape.window_of(layer); window > 0) {
    hidden = hidden.logical_or(slot_position.le(query_position.sub(window)));
  }
  return logits.masked_fill_(hidden, -std::numeric_limits<float>::infinity());
}

}  // namespace

at::Tensor attention_rows(const at::Tensor& queries, std::span<const std::int32_t> positions,
                          const LayerState& state, const ModelShape& shape, int layer) {
  const at::Tensor logits = slot_logits(queries, positions, state, shape, layer);
  return at::nan_to_num(at::softmax(logits, -1), 0.0)
      .view({shape.query_heads, queries.size(1), logits.size(3)});
}

AttentionResult attend_by_position(const at::Tensor& queries,
                                   std::span<const std::int32_t> positions, const LayerState& state,
                                   const ModelShape& shape, int layer) {
  constexpr std::int64_t block = 128;
  const std::int64_t rows = queries.size(1);
  const at::Tensor values = state.values().to(at::kFloat);
  AttentionResult result{at::empty(queries.sizes(), queries.options()),
                         at::empty({shape.query_heads, rows}, queries.options())};
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t count = std::min(block, rows - first);
    const at::Tensor logits = slot_logits(
        queries.narrow(1, first, count),
        positions.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)), state,
        shape, layer);
    const at::Tensor probability = at::nan_to_num(at::softmax(logits, -1), 0.0);
    const at::Tensor output = at::matmul(
        probability.view({shape.kv_heads, shape.group_size() * count, logits.size(3)}), values);
    result.output.narrow(1, first, count)
        .copy_(output.view({shape.query_heads, count, shape.head_dim}));
    result.lse.narrow(1, first, count)
        .copy_(at::logsumexp(logits, {-1}).view({shape.query_heads, count}));
  }
  return result;
}

}  // namespace kvscope::detail
