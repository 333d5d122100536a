#include "attention_view.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

void require(bool holds, const AttentionCall& call, const std::string& what, const char* fix) {
  KVSCOPE_CHECK(holds, ErrorCode::unsupported, what, fmt::format("layer {}", call.layer), fix);
}

void check_tensor(const at::Tensor& tensor, const char* name, int heads, std::int64_t rows,
                  const ModelShape& shape, const AttentionCall& call) {
  require(tensor.dim() == 4 && tensor.is_floating_point(), call,
          fmt::format("the {} is no float tensor [1, heads, rows, head_dim]", name),
          "capture a model whose attention function follows transformers' AttentionInterface");
  require(tensor.size(0) == 1, call, fmt::format("a batch of {} sequences", tensor.size(0)),
          "run one sequence; no beams, no batch");
  require(tensor.size(1) == heads && tensor.size(2) == rows && tensor.size(3) == shape.head_dim,
          call,
          fmt::format("the {} is [1, {}, {}, {}], the model says [1, {}, {}, {}]", name,
                      tensor.size(1), tensor.size(2), tensor.size(3), heads, rows, shape.head_dim),
          "capture a decoder whose keys and values have one head_dim, and whose KV heads are not "
          "expanded");
}

}  // namespace

void check_call(const AttentionCall& call, const ModelShape& shape, int rows) {
  require(call.layer >= 0 && call.layer < shape.layers, call,
          fmt::format("the model has {} layers", shape.layers),
          "attach to the model whose layers these are");
  require(call.key.defined() && call.key.dim() == 4, call, "there are no keys",
          "capture a model whose attention function follows transformers' AttentionInterface");
  check_tensor(call.query, "query", shape.query_heads, rows, shape, call);
  check_tensor(call.key, "key", shape.kv_heads, call.key.size(2), shape, call);
  check_tensor(call.value, "value", shape.kv_heads, call.key.size(2), shape, call);
  require(call.key.size(2) >= rows, call, "there are fewer keys than queries",
          "capture decoders only; cross-attention is not recorded");
  require(std::abs(call.scale - shape.attention_scale) <= 1e-6 * std::abs(shape.attention_scale),
          call, fmt::format("it scales by {}, the model by {}", call.scale, shape.attention_scale),
          "one scale for all layers is what a capture can say");
  require(std::abs(call.softcap - shape.logit_softcap) <= 1e-6, call,
          fmt::format("its softcap is {}, the model's {}", call.softcap, shape.logit_softcap),
          "one softcap for all layers is what a capture can say");
  require(call.window == shape.window_of(call.layer), call,
          fmt::format("its window is {}, the model's {}", call.window, shape.window_of(call.layer)),
          "attach again after changing a model's configuration");
}

Columns columns_of(const AttentionCall& call, int tokens) {
  const auto columns = static_cast<int>(call.key.size(2));
  if (columns >= tokens) {
    return Columns::tokens;
  }
  const auto rows = static_cast<int>(call.query.size(2));
  if (call.window > 0 && columns == std::min(tokens, call.window - 1 + rows)) {
    return Columns::newest;
  }
  require(call.window == 0, call,
          fmt::format("{} keys after {} tokens in a layer with a window of {}", columns, tokens,
                      call.window),
          "a window over a cache that was cut cannot be recorded; capture the global layers only "
          "(layers='...')");
  return Columns::cut;
}

at::Tensor hidden_cells(const AttentionCall& call, const ModelShape& shape) {
  if (!call.hidden_heads.defined() || call.hidden_heads.numel() == 0) {
    return {};
  }
  require(call.hidden_columns.defined() && call.hidden_columns.numel() == call.hidden_heads.numel(),
          call, "hidden cells need a head and a column each", "pass two lists of one length");
  at::Tensor cells = at::zeros({shape.kv_heads, call.key.size(2)}, at::kBool);
  const at::Tensor heads = call.hidden_heads.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor columns = call.hidden_columns.to(at::kCPU, at::kLong).contiguous();
  bool* cell = cells.mutable_data_ptr<bool>();
  for (std::int64_t index = 0; index < heads.numel(); ++index) {
    const std::int64_t head = heads.const_data_ptr<std::int64_t>()[index];
    const std::int64_t column = columns.const_data_ptr<std::int64_t>()[index];
    require(head >= 0 && head < cells.size(0) && column >= 0 && column < cells.size(1), call,
            fmt::format("hidden cell ({}, {}) lies outside the cache", head, column),
            "report this: the compression library counts cells in another way");
    cell[head * cells.size(1) + column] = true;
  }
  return cells;
}

at::Tensor in_order(const at::Tensor& rows, const at::Tensor& order) {
  const at::Tensor index =
      order.to(rows.device()).unsqueeze(2).expand({order.size(0), order.size(1), rows.size(2)});
  return rows.gather(1, index);
}

void look_at_slots(LayerRecord& record, const at::Tensor& keys, const at::Tensor& values,
                   SlotTable slots, const ModelShape& shape) {
  const at::Tensor length = at::tensor(slots.length, at::TensorOptions(at::kInt)).to(keys.device());
  const at::Tensor slot =
      at::arange(slots.slots, at::TensorOptions(at::kInt).device(keys.device()));
  const at::Tensor beyond = slot.unsqueeze(0).ge(length.unsqueeze(1));  // [kv_heads, slots]
  record.keys = keys.to(at::kFloat).masked_fill(beyond.unsqueeze(2), 0);
  record.values = values.to(at::kFloat).masked_fill(beyond.unsqueeze(2), 0);
  const at::Tensor queries =
      record.queries.reshape({shape.kv_heads, shape.group_size(), shape.head_dim});
  at::Tensor logits = at::bmm(queries, record.keys.transpose(1, 2)).mul_(shape.attention_scale);
  if (shape.logit_softcap > 0) {
    logits.div_(shape.logit_softcap).tanh_().mul_(shape.logit_softcap);
  }
  logits.masked_fill_(beyond.unsqueeze(1), -std::numeric_limits<float>::infinity());
  const at::Tensor lse = at::logsumexp(logits, {2}, true);
  record.attention = logits.sub(lse).exp().view({shape.query_heads, slots.slots});
  record.lse = lse.view({shape.query_heads, 1});
  record.slots = std::move(slots);
}

SlotTable newest_slots(int kv_heads, int slots, int tokens) {
  SlotTable table = SlotTable::full(kv_heads, slots);
  for (std::size_t cell = 0; cell < table.token.size(); ++cell) {
    table.token[cell] += tokens - slots;
    table.position[cell] = table.token[cell];
  }
  return table;
}

}  // namespace kvscope::detail
