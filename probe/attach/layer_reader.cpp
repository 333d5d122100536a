#include "layer_reader.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include <algorithm>

#include "kvscope/core/error.h"

namespace kvscope::detail {

LayerReader::LayerReader(const CaptureIndex& index, const CaptureRequest& request)
    : index_(index), request_(request) {
  for (const int layer : index.layers) {
    layers_.emplace(layer, index.shape.kv_heads);
  }
}

void LayerReader::begin_pass(int seen, int rows) {
  masks_.forget();
  seen_ = seen;
  rows_ = rows;
}

void LayerReader::end_prompt() {
  for (auto& [number, layer] : layers_) {
    layer.keys.reset();
    layer.values.reset();
  }
}

void LayerReader::whole_prompt_rows(LayerRecord& record, Layer& layer, Columns columns) const {
  const ModelShape& shape = index_.shape;
  const bool chunked = rows_ < index_.prompt_tokens;
  if (!chunked || shape.window_of(record.layer) == 0) {
    return;
  }
  if (!layer.keys.defined()) {
    layer.keys = at::empty({shape.kv_heads, index_.prompt_tokens, shape.head_dim},
                           record.keys.options().dtype(at::kFloat));
    layer.values = at::empty_like(layer.keys);
  }
  const std::int64_t held = record.keys.size(1);
  layer.keys.narrow(1, seen_, rows_).copy_(record.keys.narrow(1, held - rows_, rows_));
  layer.values.narrow(1, seen_, rows_).copy_(record.values.narrow(1, held - rows_, rows_));
  if (columns == Columns::newest) {
    record.keys = layer.keys.narrow(1, 0, seen_ + rows_);
    record.values = layer.values.narrow(1, 0, seen_ + rows_);
  }
}

LayerRecord LayerReader::prompt(const AttentionCall& call) {
  const int tokens = seen_ + rows_;
  const Columns columns = columns_of(call, tokens);
  KVSCOPE_CHECK(columns != Columns::cut && !hidden_cells(call, index_.shape).defined(),
                ErrorCode::unsupported, "the prompt is read on a cache that lost tokens",
                fmt::format("layer {}", call.layer),
                "read the prompt in one piece, or on a full cache");
  const auto used = static_cast<int>(std::min<std::int64_t>(call.key.size(2), tokens));
  masks_.check(call.mask, rows_, static_cast<int>(call.key.size(2)),
               {seen_, columns == Columns::newest ? tokens - used : 0, call.window},
               index_.attention_kernel);
  Layer& layer = layers_.at(call.layer);
  const at::Tensor keys = call.key[0].narrow(1, 0, used).detach();
  const at::Tensor values = call.value[0].narrow(1, 0, used).detach();
  if (call.window == 0) {
    layer.slots.enter(keys.narrow(1, used - rows_, rows_), values.narrow(1, used - rows_, rows_));
  }
  LayerRecord record;
  record.layer = call.layer;
  record.first_query = seen_;
  record.queries = call.query[0].detach().to(at::kFloat).contiguous();
  record.keys = keys.to(at::kFloat, false, keeps_tensors());
  record.values = values.to(at::kFloat, false, keeps_tensors());
  whole_prompt_rows(record, layer, columns);
  if (call.keys_pre_rope.defined()) {
    record.keys_pre_rope = call.keys_pre_rope.detach().to(at::kFloat);
  }
  if (call.output.defined()) {
    record.output = call.output[0].detach().transpose(0, 1).to(at::kFloat);
  }
  return record;
}

LayerRecord LayerReader::step_record(const AttentionCall& call, int row, Columns columns) const {
  const ModelShape& shape = index_.shape;
  LayerRecord record;
  record.layer = call.layer;
  record.first_query = seen_ + row;
  record.queries = call.query[0].narrow(1, row, 1).detach().to(at::kFloat).contiguous();
  if (call.output.defined()) {
    record.output = call.output[0].narrow(0, row, 1).detach().transpose(0, 1).to(at::kFloat);
  }
  const CacheSlots& slots = layers_.at(call.layer).slots;
  const int tokens = seen_ + row + 1;
  const auto all = static_cast<int>(std::min<std::int64_t>(call.key.size(2), seen_ + rows_));
  const int used = all - rows_ + row + 1;
  at::Tensor keys = call.key[0].detach().narrow(1, 0, used);
  at::Tensor values = call.value[0].detach().narrow(1, 0, used);
  if (columns == Columns::newest) {
    const int seen = std::min(used, call.window);
    look_at_slots(record, keys.narrow(1, used - seen, seen), values.narrow(1, used - seen, seen),
                  newest_slots(shape.kv_heads, seen, tokens), shape);
  } else if (call.window == 0 && !slots.whole()) {
    const at::Tensor order = slots.order(used);
    look_at_slots(record, in_order(keys, order), in_order(values, order), slots.table(used), shape);
  } else {
    const bool copy = request_.snapshots != "none";
    record.keys = copy ? keys.clone() : keys;
    record.values = copy ? values.clone() : values;
  }
  return record;
}

void LayerReader::follow_cache(const AttentionCall& call, int step) {
  const at::Tensor hidden = hidden_cells(call, index_.shape);
  if (call.window > 0) {
    KVSCOPE_CHECK(!hidden.defined(), ErrorCode::unsupported,
                  "cells of a sliding layer's cache are hidden",
                  fmt::format("layer {}", call.layer), "capture the global layers only");
    return;
  }
  Layer& layer = layers_.at(call.layer);
  const std::int64_t used = std::min<std::int64_t>(call.key.size(2), seen_ + rows_);
  const bool lost = layer.slots.see(
      call.key[0].detach().narrow(1, 0, used), call.value[0].detach().narrow(1, 0, used), rows_,
      hidden.defined() ? hidden.narrow(1, 0, used).contiguous() : hidden);
  KVSCOPE_CHECK(!lost || index_.method != "full", ErrorCode::unsupported,
                "the cache lost tokens, and the capture says that nothing compresses it",
                fmt::format("layer {}, step {}", call.layer, step + 1),
                "say what does: capture(..., method='NAME')");
  if (lost) {
    cuts_.note(call.layer, step, layer.slots.alive(seen_));
  }
}

std::vector<LayerRecord> LayerReader::steps(const AttentionCall& call, int count, int step) {
  const int tokens = seen_ + rows_;
  const Columns columns = columns_of(call, tokens);
  const auto held = static_cast<int>(call.key.size(2));
  MaskRule rule{seen_, columns == Columns::newest ? tokens - held : 0, call.window};
  if (columns == Columns::cut) {
    rule.first_query = held - rows_;  // columns count for themselves
  }
  masks_.check(call.mask, rows_, held, rule, index_.attention_kernel);
  follow_cache(call, step);
  std::vector<LayerRecord> records;
  for (int row = 0; row < count; ++row) {
    records.push_back(step_record(call, row, columns));
  }
  return records;
}

}  // namespace kvscope::detail
