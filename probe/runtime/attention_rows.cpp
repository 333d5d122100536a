#include "attention_rows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/log.h>
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

}  // namespace

at::Tensor attention_rows(const at::Tensor& queries, const std::vector<std::int32_t>& positions,
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
  logits.masked_fill_(hidden, -std::numeric_limits<float>::infinity());
  const at::Tensor probability = at::nan_to_num(at::softmax(logits, -1), 0.0);
  return probability.view({shape.query_heads, rows, table.slots});
}

}  // namespace kvscope::detail
