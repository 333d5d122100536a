#include "capture_evidence.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

std::span<float> span_of(at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

int captured_row(const CaptureReader& reader, int layer) {
  const std::vector<int>& layers = reader.index().layers;
  const auto found = std::find(layers.begin(), layers.end(), layer);
  KVSCOPE_CHECK(found != layers.end(), ErrorCode::missing_data,
                fmt::format("layer {} was not captured", layer), reader.index().path,
                "capture again without --layers");
  KVSCOPE_CHECK(reader.layer_done(static_cast<int>(found - layers.begin())),
                ErrorCode::missing_data,
                fmt::format("the run has not finished layer {} of the prompt", layer),
                reader.index().path, "wait for its end, or capture again");
  return static_cast<int>(found - layers.begin());
}

CaptureEvidence::CaptureEvidence(std::shared_ptr<const CaptureReader> reader, int layer, int cut,
                                 std::uint64_t seed)
    : reader_(std::move(reader)),
      layer_(layer),
      row_(captured_row(*reader_, layer)),
      cut_(cut),
      seed_(seed) {}

template <typename Make>
at::Tensor CaptureEvidence::once(const std::string& key, Make make) const {
  const auto found = known_.find(key);
  return found != known_.end() ? found->second : known_.emplace(key, make()).first->second;
}

const SlotTable& CaptureEvidence::slots() const {
  if (slots_.kv_heads == 0) {
    slots_ = SlotTable::full(shape().kv_heads, cut_);
  }
  return slots_;
}

AttentionStatsOptions CaptureEvidence::attention_options() const {
  AttentionStatsOptions options;
  options.scale = shape().attention_scale;
  options.softcap = shape().logit_softcap;
  options.window = shape().window_of(layer_);
  return options;
}

at::Tensor CaptureEvidence::plane(const std::string& name) const {
  return once("reduce/" + name, [&] {
    const std::vector<std::int64_t> extent = reader_->shape("reduce/" + name);
    at::Tensor values =
        at::empty({extent.size() == 3 ? extent[1] : shape().query_heads, cut_}, at::kFloat);
    reader_->read("reduce/" + name, {row_, 0, 0}, {1, values.size(0), cut_}, span_of(values));
    return values;
  });
}

at::Tensor CaptureEvidence::tensor(const std::string& name) const {
  return once(name, [&] {
    at::Tensor values = at::empty({shape().kv_heads, cut_, shape().head_dim}, at::kFloat);
    reader_->read(layer_dataset(layer_, name), {0, 0, 0}, {values.size(0), cut_, values.size(2)},
                  span_of(values));
    return values;
  });
}

at::Tensor CaptureEvidence::keys(Frame frame) const {
  return tensor(frame == Frame::post_rope ? "keys" : "keys_pre_rope");
}

at::Tensor CaptureEvidence::values() const {
  return tensor("values");
}

at::Tensor CaptureEvidence::queries(int newest) const {
  const std::string name = layer_dataset(layer_, "queries");
  return once(fmt::format("queries {}", newest), [&] {
    const int first = cut_ - newest;
    const int stored = reader_->index().first_query;
    KVSCOPE_CHECK(newest >= 1 && first >= 0, ErrorCode::usage,
                  fmt::format("the newest {} of {} queries were asked for", newest, cut_),
                  fmt::format("{}, /{}", reader_->index().path, name),
                  "use a smaller window, or a longer prompt");
    KVSCOPE_CHECK(!reader_->has(name) || first >= stored, ErrorCode::missing_data,
                  fmt::format("queries {} to {} are needed, the capture holds them from {}", first,
                              cut_ - 1, stored),
                  fmt::format("{}, /{}", reader_->index().path, name),
                  "capture again with --profile full");
    at::Tensor values = at::empty({shape().query_heads, newest, shape().head_dim}, at::kFloat);
    reader_->read(name, {0, first - stored, 0}, {values.size(0), newest, values.size(2)},
                  span_of(values));
    return values;
  });
}

at::Tensor CaptureEvidence::lse(int newest) const {
  return once(fmt::format("lse {}", newest), [&] {
    KVSCOPE_CHECK(newest >= 1 && newest <= cut_, ErrorCode::usage,
                  fmt::format("the newest {} of {} queries were asked for", newest, cut_),
                  reader_->index().path, "use a smaller window, or a longer prompt");
    at::Tensor values = at::empty({shape().query_heads, newest}, at::kFloat);
    reader_->read("reduce/lse", {row_, 0, cut_ - newest}, {1, values.size(0), newest},
                  span_of(values));
    return values;
  });
}

at::Tensor CaptureEvidence::attention(int newest) const {
  return once(fmt::format("attention {}", newest), [&] {
    const at::Tensor rows = queries(newest);
    const at::Tensor normalisers = lse(newest);
    const at::Tensor all_keys = keys(Frame::post_rope);
    std::vector<at::Tensor> heads;
    for (int query_head = 0; query_head < shape().query_heads; ++query_head) {
      heads.push_back(
          attention_rectangle(rows[query_head], all_keys[shape().kv_head_of(query_head)],
                              normalisers[query_head], cut_ - newest, 0, attention_options()));
    }
    return at::stack(heads);
  });
}

const AttentionStats& CaptureEvidence::all_queries() const {
  if (!all_queries_) {
    AttentionStatsOptions options = attention_options();
    options.entropy = false;
    options.last_query = false;
    all_queries_ = std::make_unique<AttentionStats>(
        attention_stats(queries(cut_), keys(Frame::post_rope), lse(cut_), options));
  }
  return *all_queries_;
}

at::Tensor CaptureEvidence::attention_sum() const {
  return at_prompt_end() ? plane("attention_sum") : all_queries().sum;
}

at::Tensor CaptureEvidence::decode_attention_sum() const {
  return at::zeros({shape().query_heads, cut_}, at::kFloat);  // a capture is decided at its prompt
}

at::Tensor CaptureEvidence::attention_sum_squares() const {
  return at_prompt_end() ? plane("attention_sum_squares") : all_queries().sum_squares;
}

at::Tensor CaptureEvidence::attention_max() const {
  return at_prompt_end() ? plane("attention_max") : all_queries().max;
}

const WindowStats& CaptureEvidence::recomputed_window(int window) const {
  const auto found = windows_.find(window);
  if (found != windows_.end()) {
    return found->second;
  }
  AttentionStatsOptions options = attention_options();
  options.first_query = cut_ - window;
  options.columns = false;
  options.entropy = false;
  options.last_query = false;
  options.windows = {window};
  const AttentionStats stats =
      attention_stats(queries(window), keys(Frame::post_rope), lse(window), options);
  return windows_.emplace(window, stats.windows.front()).first->second;
}

at::Tensor CaptureEvidence::window_plane(int window, const std::string& name) const {
  KVSCOPE_CHECK(window >= 1 && window <= cut_, ErrorCode::usage,
                fmt::format("an observation window of {} queries, of {}", window, cut_),
                reader_->index().path, "use a smaller window, or a longer prompt");
  const std::string stored = fmt::format("window_{}/{}", window, name);
  if (at_prompt_end() && reader_->has("reduce/" + stored)) {
    return plane(stored);
  }
  if (!reader_->has(layer_dataset(layer_, "queries"))) {
    throw Error(ErrorCode::missing_data,
                fmt::format("the newest {} queries are needed, as sums or as queries", window),
                fmt::format("{}, /reduce/{}", reader_->index().path, stored),
                fmt::format("capture again with --window {0}, or with --profile qkv", window));
  }
  const WindowStats& stats = recomputed_window(window);
  return name == "window_sum" ? stats.sum : stats.sum_squares;
}

at::Tensor CaptureEvidence::window_sum(int window) const {
  return window_plane(window, "window_sum");
}

at::Tensor CaptureEvidence::window_sum_squares(int window) const {
  return window_plane(window, "window_sum_squares");
}

at::Tensor CaptureEvidence::last_query() const {
  return at_prompt_end() ? plane("last_query") : attention(1).squeeze(1);
}

at::Tensor CaptureEvidence::key_norm() const {
  return plane("key_norm");
}

at::Tensor CaptureEvidence::projected_value_norm(int order) const {
  KVSCOPE_CHECK(order == 1 || order == 2, ErrorCode::usage,
                fmt::format("a norm of order {}", order), "projected_value_norm", "use 1 or 2");
  return plane(order == 2 ? "projected_value_norm" : "projected_value_norm_l1");
}

at::Tensor CaptureEvidence::output_factor() const {
  return once("output_factor", [&] {
    const std::int64_t dim = shape().head_dim;
    at::Tensor values = at::empty({shape().query_heads, dim, dim}, at::kFloat);
    reader_->read(layer_dataset(layer_, "output_factor"), {0, 0, 0}, {values.size(0), dim, dim},
                  span_of(values));
    return values;
  });
}

at::Tensor CaptureEvidence::output_weights() const {
  throw Error(ErrorCode::missing_data, "captures hold no output projection, only its factor",
              reader_->index().path, "decide in a live run: kvscope generate MODEL");
}

}  // namespace kvscope
