#include "layer_statistics.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "attention_rows.h"
#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {
namespace {

at::Tensor clone_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.clone() : tensor;
}

/// `tensor` with at least `slots` columns, new ones zero.
void widen(at::Tensor& tensor, std::int64_t query_heads, std::int64_t slots, at::Device device) {
  if (tensor.defined() && tensor.size(1) >= slots) {
    return;
  }
  at::Tensor wider = at::zeros({query_heads, slots + slots / 4 + 16},
                               at::TensorOptions(at::kFloat).device(device));
  if (tensor.defined()) {
    wider.narrow(1, 0, tensor.size(1)).copy_(tensor);
  }
  tensor = wider;
}

/// Column sums of the pass, [query_heads, slots].
void add_sum(LayerStatistics& statistics, const StatisticsPass& pass, const at::Tensor& sum) {
  statistics.sum.narrow(1, 0, sum.size(1)).add_(sum);
  if (pass.decode) {
    statistics.decode_sum.narrow(1, 0, sum.size(1)).add_(sum);
  }
}

AttentionStats columns_of(const StatisticsPass& pass, const LayerState& state,
                          const ModelShape& shape, int layer) {
  AttentionStatsOptions options;
  options.scale = shape.attention_scale;
  options.softcap = shape.logit_softcap;
  options.window = shape.window_of(layer);
  options.first_query = state.longest() - static_cast<int>(pass.queries.size(1));
  options.entropy = false;
  options.last_query = false;
  return attention_stats(pass.queries, state.keys().to(at::kFloat), pass.lse, options);
}

/// Column statistics of the pass: the forward pass's own, or those of a cache of one length.
void add_full(LayerStatistics& statistics, const StatisticsPass& pass, const LayerState& state,
              const ModelShape& shape, int layer) {
  const AttentionStats stats =
      pass.stats.sum.defined() ? pass.stats : columns_of(pass, state, shape, layer);
  const std::int64_t slots = stats.sum.size(1);
  add_sum(statistics, pass, stats.sum);
  statistics.sum_squares.narrow(1, 0, slots).add_(stats.sum_squares);
  at::Tensor max = statistics.max.narrow(1, 0, slots);
  at::maximum_out(max, max, stats.max);
}

/// The same over a cut cache: rows of probabilities, a block of queries at a time.
void add_cut(LayerStatistics& statistics, const StatisticsPass& pass, const LayerState& state,
             const ModelShape& shape, int layer) {
  constexpr std::int64_t block = 128;
  const std::int64_t rows = pass.queries.size(1);
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t count = std::min(block, rows - first);
    const at::Tensor probability = attention_rows(
        pass.queries.narrow(1, first, count),
        pass.positions.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
        state, shape, layer);
    const std::int64_t slots = probability.size(2);
    add_sum(statistics, pass, probability.sum(1));
    statistics.sum_squares.narrow(1, 0, slots).add_(probability.square().sum(1));
    at::Tensor max = statistics.max.narrow(1, 0, slots);
    at::maximum_out(max, max, probability.amax(1));
  }
}

}  // namespace

LayerStatistics LayerStatistics::clone() const {
  LayerStatistics copy = *this;
  copy.newest = newest.clone();
  copy.sum = clone_of(sum);
  copy.decode_sum = clone_of(decode_sum);
  copy.sum_squares = clone_of(sum_squares);
  copy.max = clone_of(max);
  return copy;
}

void remember_queries(LayerStatistics& statistics, const StatisticsPass& pass, int window) {
  statistics.newest.add(pass.queries, pass.lse, pass.positions, window);
  statistics.queries_seen += static_cast<int>(pass.queries.size(1));
}

void add_columns(LayerStatistics& statistics, const StatisticsPass& pass, const LayerState& state,
                 const ModelShape& shape, int layer) {
  for (at::Tensor* tensor : {&statistics.sum, &statistics.sum_squares, &statistics.max}) {
    widen(*tensor, shape.query_heads, state.longest(), pass.queries.device());
  }
  if (pass.decode) {
    widen(statistics.decode_sum, shape.query_heads, state.longest(), pass.queries.device());
  }
  const bool by_position = state.cut() && shape.window_of(layer) > 0;
  if (pass.stats.sum.defined() || (state.uniform() && !state.merged() && !by_position)) {
    add_full(statistics, pass, state, shape, layer);
  } else {
    add_cut(statistics, pass, state, shape, layer);
  }
}

void follow_cut(LayerStatistics& statistics, const SlotTable& before, const SlotTable& after,
                const ModelShape& shape) {
  if (!statistics.sum.defined()) {
    return;
  }
  at::Tensor index = at::empty({before.kv_heads, after.slots}, at::kLong);
  at::Tensor live = at::empty({before.kv_heads, after.slots}, at::kFloat);
  auto* slot_of = index.mutable_data_ptr<std::int64_t>();
  float* weight = live.mutable_data_ptr<float>();
  for (int kv_head = 0; kv_head < before.kv_heads; ++kv_head) {
    int old_slot = 0;  // both tables are in token order
    for (int slot = 0; slot < after.slots; ++slot) {
      const bool real = slot < after.length[static_cast<std::size_t>(kv_head)];
      const std::int32_t token = after.token[after.cell(kv_head, slot)];
      while (real && before.token[before.cell(kv_head, old_slot)] != token) {
        ++old_slot;
      }
      *slot_of++ = real ? old_slot : 0;
      *weight++ = real ? 1.0f : 0.0f;
    }
  }
  const at::Device device = statistics.sum.device();
  index = index.to(device).repeat_interleave(shape.group_size(), 0);
  live = live.to(device).repeat_interleave(shape.group_size(), 0);
  for (at::Tensor* tensor :
       {&statistics.sum, &statistics.decode_sum, &statistics.sum_squares, &statistics.max}) {
    if (tensor->defined()) {
      *tensor = tensor->gather(1, index).mul_(live);
    }
  }
}

}  // namespace kvscope::detail
