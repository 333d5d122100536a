#include "kvscope/capture/recorder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "decode_series.h"
#include "finite_check.h"
#include "hook_series.h"
#include "kvscope/core/error.h"
#include "logit_rows.h"
#include "lost_mass.h"
#include "prompt_planes.h"
#include "segments.h"
#include "snapshots.h"
#include "writer_thread.h"

namespace kvscope {
namespace {

/// The writer is given what waits after this many decode steps; a live capture, which is committed
/// then, also after this much time.
constexpr int commit_steps = 32;
constexpr std::chrono::milliseconds commit_interval{100};

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

CaptureIndex index_of(CaptureIndex index, const CaptureRequest& request,
                      const CaptureChoice& choice) {
  index.layers = request.layers;
  index.windows = request.windows;
  index.query_heads = choice.query_heads;
  index.kv_heads = choice.kv_heads;
  index.step_numbers = choice.steps.decode;
  index.hook_tokens = choice.hook_tokens;
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

CaptureState state_after(const Error& error) {
  if (error.code() == ErrorCode::interrupted) {
    return CaptureState::stopped;
  }
  const bool full = error.message().find("disk") != std::string::npos;
  return full && error.code() == ErrorCode::io ? CaptureState::disk_full : CaptureState::error;
}

struct Recorder::Impl {
  Impl(const std::string& path, const CaptureRequest& asked, const CaptureIndex& header,
       const TokenTable& prompt, std::function<at::Tensor(int)> factor,
       std::function<at::Tensor(int)> weights)
      : request(with_all_layers(asked, header.shape, header.prompt_tokens)),
        choice(choose(request, header.shape, header.prompt_tokens)),
        index(index_of(header, request, choice)),
        writer(path, index, prompt,
               capture_datasets(request, index.shape, index.prompt_tokens,
                                cache_element(index.cache_dtype)),
               {request.force, request.compress, request.live}),
        thread(writer, policy_of(request)),
        segments(request.received_by_segment ? detail::segment_indicator(prompt, index.tokens)
                                             : at::Tensor()),
        planes(request, index, choice, thread, finite, factor, std::move(weights), segments),
        decode(request, index, choice, thread, factor, segments),
        hooks(request, choice, thread),
        logits(request, index, choice, thread),
        snapshots(request, index, choice, thread) {
    if (request.evicted_mass) {
      lost.emplace(index);
    }
  }

  int row_of(int layer) const {
    const auto found = std::lower_bound(request.layers.begin(), request.layers.end(), layer);
    return found != request.layers.end() && *found == layer
               ? static_cast<int>(found - request.layers.begin())
               : -1;
  }
  /// Row of /steps that holds a decode step; -1 if the step is not stored.
  int series_row(int step) const {
    const std::vector<int>& steps = choice.steps.decode;
    const auto found = std::lower_bound(steps.begin(), steps.end(), step);
    return found != steps.end() && *found == step ? static_cast<int>(found - steps.begin()) : -1;
  }
  /// Stored steps up to and including `step`.
  int series_rows(int step) const {
    const std::vector<int>& steps = choice.steps.decode;
    return static_cast<int>(std::upper_bound(steps.begin(), steps.end(), step) - steps.begin());
  }
  /// Marks the newest finished layer as whole: no hook point of it comes any more.
  void close_layer() {
    if (open_row >= 0) {
      thread.then([row = open_row](CaptureWriter& file) { file.layer_done(row); });
    }
    open_row = -1;
  }

  /// Hands the tokens of the steps since the last call to the writer, and has a live file commit
  /// them.
  void commit() {
    thread.list_dropped();
    thread.then(
        [tokens = std::exchange(appended, {}), rows = series_rows(taken)](CaptureWriter& file) {
          for (const Appended& token : tokens) {
            file.append_token(token.id, token.position, token.piece, token.segment);
          }
          file.commit(rows);
        });
  }

  /// A token fed by a decode step.
  struct Appended {
    std::int32_t id = 0;
    int position = 0;
    std::string piece;
    Segment segment = Segment::generated;
  };

  CaptureRequest request;
  CaptureChoice choice;
  CaptureIndex index;
  CaptureWriter writer;
  detail::WriterThread thread;
  detail::FiniteCheck finite;
  at::Tensor segments;  ///< [planned tokens, segments], or undefined
  detail::PromptPlanes planes;
  detail::StepAttentions attention;
  detail::DecodeSeries decode;
  detail::HookSeries hooks;
  detail::LogitRows logits;
  detail::Snapshots snapshots;
  std::optional<detail::LostMass> lost;
  std::chrono::steady_clock::time_point committed = std::chrono::steady_clock::now();
  int taken = 0;                   ///< decode steps
  std::vector<Appended> appended;  ///< since the writer was told last
  int open_row = -1;  ///< layer whose prompt statistics are whole, but not yet its hook points
};

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

AttentionWanted Recorder::wanted(int step, int first_query, int rows) const {
  const Impl& impl = *impl_;
  if (step == 0) {
    return impl.planes.wanted(first_query, rows);
  }
  AttentionWanted wanted =
      impl.series_row(step) >= 0 ? impl.decode.wanted() : AttentionWanted::nothing();
  if (impl.snapshots.any()) {
    wanted.entropy = wanted.last_query = true;
    wanted.last_top = 0;
  }
  return wanted;
}

bool Recorder::wants_keys_gradient() const {
  return impl_->request.keys_gradient;
}

void Recorder::keys_gradient(int layer, const at::Tensor& gradient) {
  Impl& impl = *impl_;
  if (impl.request.keys_gradient && impl.row_of(layer) >= 0) {
    impl.finite.see(gradient, "gradients of keys", layer, 0);
    impl.hooks.add_keys_gradient(layer, gradient);
  }
}

bool Recorder::wants_hooks(int step) const {
  const Impl& impl = *impl_;
  return !impl.request.hooks.empty() &&
         (step == 0 ? impl.choice.steps.prompt : impl.series_row(step) >= 0);
}

bool Recorder::wants_logits(int step, int first_token, std::int64_t count) const {
  const Impl& impl = *impl_;
  return wants_hooks(step) && impl.hooks.wants(HookPoint::logits, step == 0) &&
         (step > 0 || impl.hooks.wants_tokens(first_token, count));
}

void Recorder::hook(HookPoint point, int layer, int step, int first_token,
                    const at::Tensor& tensor) {
  Impl& impl = *impl_;
  const int row = of_model(point) ? 0 : impl.row_of(layer);
  if (row < 0 || !wants_hooks(step) || !impl.hooks.wants(point, step == 0)) {
    return;
  }
  if (step == 0) {
    impl.hooks.add_prompt(point, layer, first_token, tensor);
  } else {
    impl.hooks.add_step(point, row, tensor);
  }
}

void Recorder::prefill_layer(const LayerRecord& record) {
  Impl& impl = *impl_;
  const int row = impl.row_of(record.layer);
  KVSCOPE_CHECK(row >= 0, ErrorCode::failed, fmt::format("layer {} is not recorded", record.layer),
                "recorder");
  impl.close_layer();
  const auto end = [&](const LayerRecord& whole, const at::Tensor& attention_sum) {
    impl.snapshots.add_prompt(row, whole, attention_sum);
    if (impl.lost) {
      impl.lost->add_prompt(row, whole.keys);
    }
  };
  if (impl.request.logit_maps && impl.choice.steps.prompt) {
    impl.logits.add_prompt(record);
  }
  if (impl.planes.add(record, row, end)) {
    impl.open_row = row;
    if (impl.request.hooks.empty()) {
      impl.close_layer();
    }
  }
}

void Recorder::prefill_logits(const at::Tensor& logits) {
  Impl& impl = *impl_;
  impl.close_layer();
  impl.snapshots.end_step(0);
  if (!logits.defined()) {
    return;
  }
  impl.finite.see(logits, "logits", -1, 0);
  const detail::TopLogits top = detail::top_logits(logits);
  impl.thread.put("model/logit_token", {0}, {top.token.size(0)}, top.token);
  impl.thread.put("model/logit_logprob", {0}, {top.log_probability.size(0)}, top.log_probability);
}

void Recorder::decode_layer(int step, const LayerRecord& record) {
  // Values that are not finite show in the next layer, or in the logits.
  impl_->finite.see(record.queries, "queries", record.layer, step);
  KVSCOPE_CHECK(step >= 1 && step <= impl_->request.new_tokens, ErrorCode::failed,
                "a decode step that the capture was not planned for", "recorder",
                "plan more with --new-tokens");
  Impl& impl = *impl_;
  const int row = impl.row_of(record.layer);
  const int series_row = impl.series_row(step);
  at::Tensor lost;
  if (impl.lost) {
    lost = impl.lost->add_step(row, record);
  }
  if (series_row < 0 && !impl.snapshots.any()) {
    return;
  }
  const detail::StepAttention attention = impl.attention.of(record, impl.index.shape);
  impl.snapshots.add_step(step, row, record, attention);
  if (series_row >= 0) {
    impl.decode.add_layer(series_row, row, record, attention);
    if (impl.request.logit_maps) {
      impl.logits.add_step(series_row, row, record);
    }
    if (lost.defined()) {
      impl.decode.set_evicted_mass(row, lost);
    }
  }
}

void Recorder::decode_step(int step, std::int32_t token, const std::string& piece,
                           const at::Tensor& logits, Segment segment) {
  Impl& impl = *impl_;
  impl.close_layer();
  impl.finite.see(logits, "logits", -1, step);
  if (const int row = impl.series_row(step); row >= 0) {
    impl.decode.add_step(row, token, logits);
    impl.hooks.end_step(row);
  }
  impl.snapshots.end_step(step);
  impl.appended.push_back({token, impl.index.prompt_tokens + step - 1, piece, segment});
  impl.taken = step;
  if (step == 1) {
    impl.thread.then([](CaptureWriter& file) { file.set_state(CaptureState::decode); });
  }
  const auto now = std::chrono::steady_clock::now();
  if (step % commit_steps == 0 || (impl.request.live && now - impl.committed >= commit_interval)) {
    impl.committed = now;
    impl.commit();
  }
}

void Recorder::stop(CaptureState state, const std::string& message) noexcept {
  Impl& impl = *impl_;
  try {
    impl.commit();
    impl.thread.drain();
  } catch (const std::exception&) {  // the writer failed: what was committed before is valid
  }
  impl.writer.stop(state, message);
}

const std::string& Recorder::first_nonfinite() const {
  return impl_->finite.first();
}

std::int64_t Recorder::dropped_bytes() const {
  return impl_->thread.dropped_bytes();
}

void Recorder::finish(int steps, const std::string& message) {
  Impl& impl = *impl_;
  impl.close_layer();
  impl.commit();
  impl.thread.drain();
  if (!impl.planes.failed_layers().empty() && !impl.writer.live()) {
    impl.writer.set_attribute("reduce/self_check", "self_check_failed",
                              fmt::format("{}", fmt::join(impl.planes.failed_layers(), ",")));
  }
  if (!impl.finite.first().empty() && !impl.writer.live()) {
    impl.writer.set_attribute("reduce/lse", "nonfinite", impl.finite.first());
  }
  impl.writer.finish(impl.series_rows(steps), CaptureState::done, message);
}

}  // namespace kvscope
