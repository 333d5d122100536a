#include "kvscope/capture/recorder.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/sum.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "datasets.h"
#include "decode_series.h"
#include "kvscope/core/error.h"
#include "kvscope/core/log.h"
#include "kvscope/kernels/projected_norms.h"
#include "kvscope/storage/capture_reader.h"
#include "map_reductions.h"
#include "prefill_statistics.h"
#include "writer_thread.h"

namespace kvscope {
namespace {

constexpr double largest_residual = 1e-3;
/// A live capture is committed after this many decode steps, or after this much time.
constexpr int commit_steps = 32;
constexpr std::chrono::milliseconds commit_interval{100};

ElementType cache_element(const CaptureIndex& index) {
  return index.cache_dtype == "bfloat16" ? ElementType::bf16 : ElementType::f4;
}

CaptureRequest with_all_layers(CaptureRequest request, const ModelShape& shape, int prompt_tokens) {
  if (request.layers.empty()) {
    for (int layer = 0; layer < shape.layers; ++layer) {
      request.layers.push_back(layer);
    }
  }
  for (int& window : request.windows) {
    window = std::min(window, prompt_tokens);
  }
  request.windows.erase(std::unique(request.windows.begin(), request.windows.end()),
                        request.windows.end());
  return request;
}

CaptureIndex index_of(CaptureIndex index, const CaptureRequest& request) {
  index.layers = request.layers;
  index.windows = request.windows;
  index.torch = TORCH_VERSION;
  return index;
}

detail::WriterPolicy policy_of(const CaptureRequest& request) {
  detail::WriterPolicy policy;
  policy.never_drop = request.never_drop;
  policy.drop_bulk = request.drop_bulk;
  return policy;
}

}  // namespace

struct Recorder::Impl {
  Impl(const std::string& path, const CaptureRequest& asked, const CaptureIndex& header,
       const TokenTable& prompt, std::function<at::Tensor(int)> factor,
       std::function<at::Tensor(int)> weights)
      : request(with_all_layers(asked, header.shape, header.prompt_tokens)),
        index(index_of(header, request)),
        output_factor(std::move(factor)),
        output_weights(std::move(weights)),
        writer(path, index, prompt,
               capture_datasets(request, index.shape, index.prompt_tokens, cache_element(index)),
               {request.force, request.compress, request.live}),
        thread(writer, policy_of(request)),
        decode(request, index, thread) {}

  int row_of(int layer) const {
    const auto found = std::lower_bound(request.layers.begin(), request.layers.end(), layer);
    return found != request.layers.end() && *found == layer
               ? static_cast<int>(found - request.layers.begin())
               : -1;
  }
  bool stores_tensors() const {
    return request.profile == Profile::qkv || request.profile == Profile::full;
  }
  /// Writes [heads, columns] as columns first.. of one layer's plane.
  void put_plane(const std::string& name, int row, const at::Tensor& values, int first = 0) {
    thread.put("reduce/" + name, {row, 0, first}, {1, values.size(0), values.size(1)}, values);
  }
  void put_norms(const LayerRecord& record, int row);
  void put_windows(const detail::PrefillStatistics& statistics, int row);
  void put_queries(const LayerRecord& record);
  void reduce_maps(const LayerRecord& record, const at::Tensor& lse, int row);
  void put_pooled(int layer, int row);
  void put_maps(const LayerRecord& record, const at::Tensor& lse);
  void finish_layer(const LayerRecord& record, const detail::PrefillStatistics& statistics,
                    int row);
  void check_layer(const at::Tensor& residual, int layer);
  /// Remembers the first tensor that holds a NaN or an infinity: `what`, of a layer or of none
  /// (-1).
  void check_finite(const at::Tensor& values, const char* what, int layer, int step);

  CaptureRequest request;
  CaptureIndex index;
  std::function<at::Tensor(int)> output_factor;
  std::function<at::Tensor(int)> output_weights;
  CaptureWriter writer;
  detail::WriterThread thread;
  detail::DecodeSeries decode;
  std::chrono::steady_clock::time_point committed = std::chrono::steady_clock::now();
  int steps = 0;
  std::map<int, detail::MapReductions> open_maps;
  std::map<int, detail::PrefillStatistics> open;  ///< layers between their first and last chunk
  std::vector<int> failed_layers;
  std::string nonfinite;  ///< where numbers first were not finite
};

void Recorder::Impl::check_finite(const at::Tensor& values, const char* what, int layer, int step) {
  if (!nonfinite.empty() || !values.defined() ||
      std::isfinite(at::sum(values, at::kDouble).item<double>())) {
    return;
  }
  nonfinite = fmt::format("{}{}, {}", layer < 0 ? "" : fmt::format("layer {}, ", layer), what,
                          step == 0 ? "prefill" : fmt::format("step {}", step));
  log_warning("numbers are not finite: " + nonfinite);
}

void Recorder::Impl::put_norms(const LayerRecord& record, int row) {
  const at::Tensor keys = record.keys.to(at::kCPU, at::kFloat);
  const at::Tensor values = record.values.to(at::kCPU, at::kFloat);
  put_plane("key_norm", row, at::linalg_vector_norm(keys, 2, at::IntArrayRef{-1}));
  const at::Tensor value_norm = at::linalg_vector_norm(values, 2, at::IntArrayRef{-1});
  check_finite(value_norm, "values", record.layer, 0);
  put_plane("value_norm", row, value_norm);
  const at::Tensor factor = output_factor(record.layer).to(at::kCPU, at::kFloat);
  put_plane("projected_value_norm", row, projected_norms(values, factor, 2));
  if (!stores_tensors()) {
    return;
  }
  put_plane("value_norm_l1", row, at::linalg_vector_norm(values, 1, at::IntArrayRef{-1}));
  const at::Tensor weights = output_weights(record.layer).to(at::kCPU, at::kFloat);
  put_plane("projected_value_norm_l1", row, projected_norms(values, weights, 1));
  const auto dim = static_cast<std::int64_t>(index.shape.head_dim);
  thread.put(layer_dataset(record.layer, "output_factor"), {0, 0, 0},
             {index.shape.query_heads, dim, dim}, factor);
}

void Recorder::Impl::put_windows(const detail::PrefillStatistics& statistics, int row) {
  for (std::size_t window = 0; window < request.windows.size(); ++window) {
    const WindowStats& stats = statistics.windows[window];
    const auto put = [&](const std::string& folder) {
      put_plane(folder + "window_sum", row, stats.sum);
      put_plane(folder + "window_sum_squares", row, stats.sum_squares);
      put_plane(folder + "window_max", row, stats.max);
    };
    put(detail::window_folder(request.windows[window]));
    if (window + 1 == request.windows.size()) {
      put("");
    }
  }
}

void Recorder::Impl::put_queries(const LayerRecord& record) {
  const std::int64_t rows = record.queries.size(1);
  const std::int64_t first = std::max<std::int64_t>(index.first_query, record.first_query);
  const std::int64_t count = record.first_query + rows - first;
  if (count > 0) {
    const at::Tensor newest = record.queries.narrow(1, rows - count, count).clone();
    thread.put(layer_dataset(record.layer, "queries"), {0, first - index.first_query, 0},
               {newest.size(0), count, newest.size(2)}, newest);
  }
  if (record.keys_pre_rope.defined()) {
    const at::Tensor keys = record.keys_pre_rope.clone(at::MemoryFormat::Contiguous);
    thread.put(layer_dataset(record.layer, "keys_pre_rope"), {0, record.first_query, 0},
               {keys.size(0), rows, keys.size(2)}, keys);
  }
}

void Recorder::Impl::reduce_maps(const LayerRecord& record, const at::Tensor& lse, int row) {
  auto& maps =
      open_maps.try_emplace(record.layer, index.shape, request, index.prompt_tokens).first->second;
  maps.add(record, lse, [&](int head, int first, const at::Tensor& keys, const at::Tensor& values) {
    const std::vector<std::int64_t> count = {1, 1, keys.size(0), keys.size(1)};
    thread.put("reduce/top_key", {row, head, first, 0}, count, keys);
    thread.put("reduce/top_probability", {row, head, first, 0}, count, values);
  });
}

void Recorder::Impl::put_pooled(int layer, int row) {
  const auto found = open_maps.find(layer);
  if (found == open_maps.end()) {
    return;
  }
  const std::vector<int> levels =
      detail::MapReductions::levels(request.pooled_block, index.prompt_tokens);
  for (std::size_t level = 0; level < levels.size(); ++level) {
    const auto put = [&](const char* name, const at::Tensor& cells) {
      thread.put(fmt::format("reduce/pooled/{}/{}", levels[level], name), {row, 0, 0, 0},
                 {1, cells.size(0), cells.size(1), cells.size(2)}, cells);
    };
    put("sum", found->second.pooled_sum(static_cast<int>(level)));
    put("max", found->second.pooled_max(static_cast<int>(level)));
  }
  open_maps.erase(found);
}

void Recorder::Impl::put_maps(const LayerRecord& record, const at::Tensor& lse) {
  AttentionStatsOptions options;
  options.scale = index.shape.attention_scale;
  options.softcap = index.shape.logit_softcap;
  options.window = index.shape.window_of(record.layer);
  constexpr std::int64_t block = 512;
  for (int query_head = 0; query_head < index.shape.query_heads; ++query_head) {
    for (std::int64_t first = 0; first < record.queries.size(1); first += block) {
      const std::int64_t count = std::min(block, record.queries.size(1) - first);
      const int position = record.first_query + static_cast<int>(first);
      const at::Tensor keys = record.keys[index.shape.kv_head_of(query_head)];
      const at::Tensor tile =
          attention_rectangle(record.queries[query_head].narrow(0, first, count), keys,
                              lse[query_head].narrow(0, first, count), position, 0, options);
      const std::int64_t later = index.prompt_tokens - keys.size(0);
      thread.put(layer_dataset(record.layer, "attention"), {query_head, position, 0},
                 {1, count, index.prompt_tokens}, at::constant_pad_nd(tile, {0, later}, 0));
    }
  }
}

void Recorder::Impl::check_layer(const at::Tensor& residual, int layer) {
  const double worst = residual.max().item<double>();
  if (!(worst <= largest_residual)) {
    failed_layers.push_back(layer);
    log_warning(
        fmt::format("layer {}: attention sums miss the number of queries by {:.2g}", layer, worst));
  }
}

void Recorder::Impl::finish_layer(const LayerRecord& record,
                                  const detail::PrefillStatistics& statistics, int row) {
  if (statistics.sum.defined()) {
    put_plane("attention_sum", row, statistics.sum);
    put_plane("attention_sum_squares", row, statistics.sum_squares);
    put_plane("attention_max", row, statistics.max);
  }
  put_windows(statistics, row);
  put_plane("last_query", row, statistics.last_query);
  thread.put("reduce/self_check", {row, 0}, {1, statistics.self_check.size(0)},
             statistics.self_check);
  check_layer(statistics.self_check, record.layer);
  put_norms(record, row);
  put_pooled(record.layer, row);
  if (stores_tensors()) {
    const std::int64_t tokens = record.keys.size(1);
    const std::vector<std::int64_t> extent = {record.keys.size(0), tokens, record.keys.size(2)};
    thread.put(layer_dataset(record.layer, "keys"), {0, 0, 0}, extent, record.keys);
    thread.put(layer_dataset(record.layer, "values"), {0, 0, 0}, extent, record.values);
  }
  thread.then([row](CaptureWriter& file) { file.layer_done(row); });
}

Recorder::Recorder(const std::string& path, const CaptureRequest& request,
                   const CaptureIndex& index, const TokenTable& prompt,
                   std::function<at::Tensor(int layer)> output_factor,
                   std::function<at::Tensor(int layer)> output_weights)
    : impl_(std::make_unique<Impl>(path, request, index, prompt, std::move(output_factor),
                                   std::move(output_weights))) {}

Recorder::~Recorder() = default;

bool Recorder::wants(int layer) const {
  return impl_->row_of(layer) >= 0;
}

void Recorder::prefill_layer(const LayerRecord& record) {
  Impl& impl = *impl_;
  const int row = impl.row_of(record.layer);
  KVSCOPE_CHECK(row >= 0, ErrorCode::failed, fmt::format("layer {} is not recorded", record.layer),
                "recorder");
  const bool columns = impl.request.profile != Profile::window;
  auto& statistics =
      impl.open
          .try_emplace(record.layer, impl.index.shape, record.layer, impl.request.windows, columns)
          .first->second;
  statistics.add(record, impl.index.prompt_tokens);
  impl.check_finite(statistics.chunk_lse, "queries or keys", record.layer, 0);
  impl.put_plane("lse", row, statistics.chunk_lse.clone(), record.first_query);
  if (statistics.chunk_entropy.defined()) {
    impl.put_plane("entropy", row, statistics.chunk_entropy, record.first_query);
  }
  if (impl.stores_tensors()) {
    impl.put_queries(record);
  }
  if (impl.request.top_keys > 0 || impl.request.pooled_block > 0) {
    impl.reduce_maps(record, statistics.chunk_lse, row);
  }
  if (impl.request.attention_maps) {
    impl.put_maps(record, statistics.chunk_lse);
  }
  if (record.first_query + record.queries.size(1) == impl.index.prompt_tokens) {
    impl.finish_layer(record, statistics, row);
    impl.open.erase(record.layer);
  }
}

void Recorder::prefill_logits(const at::Tensor& logits) {
  impl_->check_finite(logits, "logits", -1, 0);
}

void Recorder::decode_layer(int step, const LayerRecord& record) {
  // Values that are not finite show in the next layer, or in the logits.
  impl_->check_finite(record.queries, "queries", record.layer, step);
  impl_->decode.add_layer(step, impl_->row_of(record.layer), record);
}

void Recorder::decode_step(int step, std::int32_t token, const std::string& piece,
                           const at::Tensor& logits) {
  Impl& impl = *impl_;
  impl.check_finite(logits, "logits", -1, step);
  impl.decode.add_step(step, token, logits);
  const int position = impl.index.prompt_tokens + step - 1;
  impl.thread.then([=](CaptureWriter& file) {
    file.append_token(token, position, piece);
    if (step == 1) {
      file.set_state(CaptureState::decode);
    }
  });
  impl.steps = step;
  const auto now = std::chrono::steady_clock::now();
  if (step % commit_steps == 0 || now - impl.committed >= commit_interval) {
    impl.committed = now;
    impl.thread.list_dropped();
    impl.thread.then([step](CaptureWriter& file) { file.commit(step); });
  }
}

void Recorder::stop(CaptureState state, const std::string& message) noexcept {
  Impl& impl = *impl_;
  try {
    impl.thread.list_dropped();
    impl.thread.then([steps = impl.steps](CaptureWriter& file) { file.commit(steps); });
    impl.thread.drain();
  } catch (const std::exception&) {  // the writer failed: what was committed before is valid
  }
  impl.writer.stop(state, message);
}

const std::string& Recorder::first_nonfinite() const {
  return impl_->nonfinite;
}

std::int64_t Recorder::dropped_bytes() const {
  return impl_->thread.dropped_bytes();
}

void Recorder::finish(int steps) {
  Impl& impl = *impl_;
  impl.thread.list_dropped();
  impl.thread.drain();
  if (!impl.failed_layers.empty() && !impl.writer.live()) {
    impl.writer.set_attribute("reduce/self_check", "self_check_failed",
                              fmt::format("{}", fmt::join(impl.failed_layers, ",")));
  }
  if (!impl.nonfinite.empty() && !impl.writer.live()) {
    impl.writer.set_attribute("reduce/lse", "nonfinite", impl.nonfinite);
  }
  impl.writer.finish(steps);
}

}  // namespace kvscope
