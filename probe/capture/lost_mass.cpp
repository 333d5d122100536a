#include "lost_mass.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/zeros.h>

#include <limits>

namespace kvscope::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

bool at_their_positions(const SlotTable& slots) {
  for (int kv_head = 0; kv_head < slots.kv_heads; ++kv_head) {
    for (int slot = 0; slot < slots.length[static_cast<std::size_t>(kv_head)]; ++slot) {
      if (slots.position[slots.cell(kv_head, slot)] != slots.token[slots.cell(kv_head, slot)]) {
        return false;
      }
    }
  }
  return true;
}

/// 0 for tokens without a slot, -infinity for those that hold one: [kv_heads, tokens].
at::Tensor lost_only(const SlotTable& slots, int tokens) {
  at::Tensor mask = at::zeros({slots.kv_heads, tokens}, at::kFloat);
  for (int kv_head = 0; kv_head < slots.kv_heads; ++kv_head) {
    float* row = mask.mutable_data_ptr<float>() + static_cast<std::int64_t>(kv_head) * tokens;
    for (int slot = 0; slot < slots.length[static_cast<std::size_t>(kv_head)]; ++slot) {
      row[slots.token[slots.cell(kv_head, slot)]] = -infinity;
    }
  }
  return mask;
}

}  // namespace

LostMass::LostMass(const CaptureIndex& index) : index_(index) {
  for (std::size_t row = 0; row < index.layers.size(); ++row) {
    keys_.push_back(
        at::empty({index.shape.kv_heads, index.tokens, index.shape.head_dim}, at::kFloat));
  }
}

void LostMass::add_prompt(int row, const at::Tensor& keys) {
  keys_[static_cast<std::size_t>(row)].narrow(1, 0, keys.size(1)).copy_(keys);
}

at::Tensor LostMass::add_step(int row, const LayerRecord& record) {
  const ModelShape& shape = index_.shape;
  const SlotTable& slots = record.slots;
  const at::Tensor& keys = keys_[static_cast<std::size_t>(row)];
  const int tokens = record.first_query + 1;
  for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    const std::int64_t length =
        slots.slots > 0 ? slots.length[static_cast<std::size_t>(kv_head)] : record.keys.size(1);
    keys[kv_head][tokens - 1].copy_(record.keys[kv_head][length - 1]);
  }
  if (slots.slots == 0) {
    return at::zeros({shape.query_heads}, at::kFloat);
  }
  if (!at_their_positions(slots)) {
    return at::full({shape.query_heads}, std::numeric_limits<float>::quiet_NaN(), at::kFloat);
  }
  const at::Tensor queries = record.queries.select(1, -1)
                                 .to(at::kCPU, at::kFloat)
                                 .reshape({shape.kv_heads, shape.group_size(), shape.head_dim});
  at::Tensor logits =
      at::bmm(queries, keys.narrow(1, 0, tokens).transpose(1, 2)).mul_(shape.attention_scale);
  if (shape.logit_softcap > 0) {
    logits.div_(shape.logit_softcap).tanh_().mul_(shape.logit_softcap);
  }
  logits.add_(lost_only(slots, tokens).unsqueeze(1));
  if (const int window = shape.window_of(record.layer); window > 0 && tokens > window) {
    logits.narrow(2, 0, tokens - window).fill_(-infinity);
  }
  const at::Tensor lost = at::logsumexp(logits, {2}).view({shape.query_heads});
  const at::Tensor lse = record.lse.select(1, -1).to(at::kCPU, at::kFloat);
  return (lost - at::logaddexp(lost, lse)).exp();
}

}  // namespace kvscope::detail
