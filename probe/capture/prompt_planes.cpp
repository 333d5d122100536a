#include "prompt_planes.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "chosen_rows.h"
#include "datasets.h"
#include "group_planes.h"
#include "kvscope/core/log.h"
#include "kvscope/kernels/projected_norms.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope::detail {
namespace {

constexpr double largest_residual = 1e-3;

}  // namespace

void PromptPlanes::put_plane(const std::string& name, int row, const at::Tensor& values, int first,
                             Heads heads) {
  const at::Tensor plane = chosen_rows(values, 0, chosen(heads));
  thread_.put("reduce/" + name, {row, 0, first}, {1, plane.size(0), plane.size(1)}, plane);
  if (heads == Heads::query && has_group_variant(name)) {
    for (const GroupReduce reduce : request_.group_reduces) {
      put_plane(group_variant(reduce, name), row,
                reduced_over_group(values, reduce, index_.shape.kv_heads), first, Heads::kv);
    }
  }
}

void PromptPlanes::put_tensor(const char* name, int layer, const at::Tensor& values,
                              std::int64_t first, Heads heads) {
  const at::Tensor rows = chosen_rows(values, 0, chosen(heads));
  thread_.put(layer_dataset(layer, name), {0, first, 0}, rows.sizes().vec(), rows);
}

void PromptPlanes::put_norms(const LayerRecord& record, int row) {
  const at::Tensor keys = record.keys.to(at::kCPU, at::kFloat);
  const at::Tensor values = record.values.to(at::kCPU, at::kFloat);
  put_plane("key_norm", row, at::linalg_vector_norm(keys, 2, at::IntArrayRef{-1}), 0, Heads::kv);
  const at::Tensor value_norm = at::linalg_vector_norm(values, 2, at::IntArrayRef{-1});
  finite_.see(value_norm, "values", record.layer, 0);
  put_plane("value_norm", row, value_norm, 0, Heads::kv);
  const at::Tensor factor = output_factor_(record.layer).to(at::kCPU, at::kFloat);
  put_plane("projected_value_norm", row, projected_norms(values, factor, 2));
  if (!stores_tensors()) {
    return;
  }
  put_plane("value_norm_l1", row, at::linalg_vector_norm(values, 1, at::IntArrayRef{-1}), 0,
            Heads::kv);
  const at::Tensor weights = output_weights_(record.layer).to(at::kCPU, at::kFloat);
  put_plane("projected_value_norm_l1", row, projected_norms(values, weights, 1));
  put_tensor("output_factor", record.layer, factor, 0, Heads::query);
}

void PromptPlanes::put_windows(const PrefillStatistics& statistics, int row) {
  for (std::size_t window = 0; window < request_.windows.size(); ++window) {
    const WindowStats& stats = statistics.windows[window];
    const auto put = [&](const std::string& folder) {
      put_plane(folder + "window_sum", row, stats.sum);
      put_plane(folder + "window_sum_squares", row, stats.sum_squares);
      put_plane(folder + "window_max", row, stats.max);
    };
    put(window_folder(request_.windows[window]));
    if (window + 1 == request_.windows.size()) {
      put("");
    }
  }
}

void PromptPlanes::put_queries(const LayerRecord& record) {
  const std::int64_t rows = record.queries.size(1);
  const std::int64_t first = std::max<std::int64_t>(index_.first_query, record.first_query);
  const std::int64_t count = record.first_query + rows - first;
  if (count > 0) {
    put_tensor("queries", record.layer, record.queries.narrow(1, rows - count, count).clone(),
               first - index_.first_query, Heads::query);
  }
  if (record.keys_pre_rope.defined()) {
    put_tensor("keys_pre_rope", record.layer,
               record.keys_pre_rope.clone(at::MemoryFormat::Contiguous), record.first_query,
               Heads::kv);
  }
}

void PromptPlanes::reduce_maps(const LayerRecord& record, const at::Tensor& lse, int row) {
  auto& maps = open_maps_
                   .try_emplace(record.layer, index_.shape, request_, choice_.query_heads,
                                index_.prompt_tokens, segments_)
                   .first->second;
  const auto top = [&](int head_row, int first, const at::Tensor& keys, const at::Tensor& values) {
    const std::vector<std::int64_t> count = {1, 1, keys.size(0), keys.size(1)};
    thread_.put("reduce/top_key", {row, head_row, first, 0}, count, keys);
    thread_.put("reduce/top_probability", {row, head_row, first, 0}, count, values);
  };
  const auto by_segment = [&](int head_row, int first, const at::Tensor& received) {
    thread_.put("reduce/received_by_segment", {row, head_row, first, 0},
                {1, 1, received.size(0), received.size(1)}, received);
  };
  maps.add(record, lse, top, by_segment);
}

void PromptPlanes::put_pooled(int layer, int row) {
  const auto found = open_maps_.find(layer);
  if (found == open_maps_.end()) {
    return;
  }
  const std::vector<int> levels =
      MapReductions::levels(request_.pooled_block, index_.prompt_tokens);
  for (std::size_t level = 0; level < levels.size(); ++level) {
    const auto put = [&](const char* name, const at::Tensor& cells) {
      thread_.put(fmt::format("reduce/pooled/{}/{}", levels[level], name), {row, 0, 0, 0},
                  {1, cells.size(0), cells.size(1), cells.size(2)}, cells);
    };
    put("sum", found->second.pooled_sum(static_cast<int>(level)));
    put("max", found->second.pooled_max(static_cast<int>(level)));
  }
  open_maps_.erase(found);
}

void PromptPlanes::put_sampled(int layer, int row) {
  if (const auto found = open_samples_.find(layer); found != open_samples_.end()) {
    put_plane("attention_sum_sampled", row, found->second.sum());
    check_layer(found->second.self_check(), layer);
    open_samples_.erase(found);
  }
}

void PromptPlanes::put_maps(const LayerRecord& record, const at::Tensor& lse) {
  AttentionStatsOptions options;
  options.scale = index_.shape.attention_scale;
  options.softcap = index_.shape.logit_softcap;
  options.window = index_.shape.window_of(record.layer);
  constexpr std::int64_t block = 512;
  for (int head_row = 0; head_row < std::ssize(choice_.query_heads); ++head_row) {
    const int query_head = choice_.query_heads[static_cast<std::size_t>(head_row)];
    for (std::int64_t first = 0; first < record.queries.size(1); first += block) {
      const std::int64_t count = std::min(block, record.queries.size(1) - first);
      const int position = record.first_query + static_cast<int>(first);
      const at::Tensor keys = record.keys[index_.shape.kv_head_of(query_head)];
      const at::Tensor tile =
          attention_rectangle(record.queries[query_head].narrow(0, first, count), keys,
                              lse[query_head].narrow(0, first, count), position, 0, options);
      const std::int64_t later = index_.prompt_tokens - keys.size(0);
      thread_.put(layer_dataset(record.layer, "attention"), {head_row, position, 0},
                  {1, count, index_.prompt_tokens}, at::constant_pad_nd(tile, {0, later}, 0));
    }
  }
}

void PromptPlanes::check_layer(const at::Tensor& residual, int layer) {
  const double worst = residual.max().item<double>();
  if (!(worst <= largest_residual)) {
    if (failed_layers_.empty() || failed_layers_.back() != layer) {
      failed_layers_.push_back(layer);
    }
    log_warning(
        fmt::format("layer {}: attention sums miss the number of queries by {:.2g}", layer, worst));
  }
}

void PromptPlanes::finish_layer(const LayerRecord& record, const PrefillStatistics& statistics,
                                int row) {
  if (statistics.sum.defined()) {
    put_plane("attention_sum", row, statistics.sum);
    put_plane("attention_sum_squares", row, statistics.sum_squares);
    put_plane("attention_max", row, statistics.max);
  }
  put_windows(statistics, row);
  put_plane("last_query", row, statistics.last_query);
  const at::Tensor residual = chosen_rows(statistics.self_check, 0, choice_.query_heads);
  thread_.put("reduce/self_check", {row, 0}, {1, residual.size(0)}, residual);
  check_layer(statistics.self_check, record.layer);
  put_norms(record, row);
  put_pooled(record.layer, row);
  put_sampled(record.layer, row);
  if (stores_tensors()) {
    put_tensor("keys", record.layer, record.keys, 0, Heads::kv);
    put_tensor("values", record.layer, record.values, 0, Heads::kv);
  }
}

bool PromptPlanes::add(const LayerRecord& record, int row, const LayerEnd& end) {
  auto& statistics =
      open_
          .try_emplace(record.layer, index_.shape, record.layer, request_.windows, counts_columns())
          .first->second;
  statistics.add(record, index_.prompt_tokens);
  finite_.see(statistics.chunk_lse, "queries or keys", record.layer, 0);
  put_plane("lse", row, statistics.chunk_lse.clone(), record.first_query);
  if (statistics.chunk_entropy.defined()) {
    put_plane("entropy", row, statistics.chunk_entropy, record.first_query);
  }
  if (stores_tensors()) {
    put_queries(record);
  }
  if (request_.head_output_norm) {
    const at::Tensor factor = output_factor_(record.layer).to(at::kCPU, at::kFloat);
    put_plane("head_output_norm", row,
              projected_norms(record.output.to(at::kCPU, at::kFloat), factor, 2),
              record.first_query);
  }
  if (request_.top_keys > 0 || request_.pooled_block > 0 || segments_.defined()) {
    reduce_maps(record, statistics.chunk_lse, row);
  }
  if (request_.sample_queries > 0) {
    const QuerySample sample = sample_of(request_, index_.prompt_tokens);
    open_samples_
        .try_emplace(record.layer, index_.shape, record.layer, sample, index_.prompt_tokens)
        .first->second.add(record, statistics.chunk_lse);
  }
  if (request_.attention_maps) {
    put_maps(record, statistics.chunk_lse);
  }
  if (record.first_query + record.queries.size(1) != index_.prompt_tokens) {
    return false;
  }
  finish_layer(record, statistics, row);
  end(record, statistics.sum);
  open_.erase(record.layer);
  return true;
}

}  // namespace kvscope::detail
