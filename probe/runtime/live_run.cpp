#include "kvscope/runtime/live_run.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>

#include "forward.h"
#include "kvscope/core/error.h"
#include "kvscope/kernels/apply_decision.h"
#include "kvscope/model/tokenizer.h"
#include "layer_record.h"
#include "layer_statistics.h"
#include "live_evidence.h"
#include "observe.h"
#include "run_checks.h"

namespace kvscope {
namespace detail {
namespace {

class LiveRunOnModel final : public LiveRun {
 public:
  LiveRunOnModel(std::shared_ptr<const LoadedModel> model, TokenTable prompt,
                 LiveRunOptions options)
      : model_(std::move(model)), tokens_(std::move(prompt)), options_(std::move(options)) {
    const at::TensorOptions storage = model_->tensors();
    for (int layer = 0; layer < shape().layers; ++layer) {
      layers_.emplace_back(shape().kv_heads, shape().head_dim, tokens_.prompt_tokens + 64, storage);
    }
    statistics_.resize(layers_.size());
  }

  const ModelShape& shape() const override { return model_->shape(); }
  const TokenTable& tokens() const override { return tokens_; }
  int tokens_seen() const override { return seen_; }
  int step() const override { return step_; }
  bool live() const override { return true; }
  std::string capture_hash() const override {
    return sequence_hash(model_->file().hash(), tokens_);
  }
  std::string model_name() const override { return model_->config().name; }
  std::string model_hash() const override { return model_->file().hash(); }

  std::unique_ptr<LayerEvidence> layer(int layer) override {
    KVSCOPE_CHECK(layer >= 0 && layer < shape().layers, ErrorCode::usage,
                  fmt::format("layer {}", layer), "live run",
                  fmt::format("layers are 0 to {}", shape().layers - 1));
    const auto index = static_cast<std::size_t>(layer);
    const Moment moment{layer, seen_, step_, step_ == 0 ? Phase::prefill : Phase::decode};
    return std::make_unique<LiveEvidence>(model_, layers_[index], statistics_[index], moment,
                                          tokens_.prompt_tokens);
  }

  void forward(std::span<const std::int32_t> token_ids, const ForwardRequest& request) override;
  void apply(const Decision& decision) override;
  void store_as(const CacheForm& form) override;
  at::Tensor logits() override;
  void prefill(bool statistics, Recorder* recorder) override;
  void decode(std::int32_t token, Recorder* recorder) override;
  std::unique_ptr<LiveRun> fork() const override;
  std::int64_t cache_bytes() const override;
  at::Tensor prompt_logits() override;

 private:
  /// What is done with a pass besides computing it.
  struct Use {
    bool statistics = false;
    bool remember = true;  ///< queries for evidence
    Recorder* recorder = nullptr;
    bool decode = false;
    int tokens_total = 0;
    PassObserver* observer = nullptr;
  };
  at::Tensor pass(const PassInput& input, const Use& use);
  at::Tensor newest_logits(const at::Tensor& hidden) const;
  void watch_layer(const LayerPass& seen, const PassInput& input, const Use& use);
  /// Attention statistics that somebody needs of a layer of a pass.
  AttentionWanted wanted(int layer, int step, const PassInput& input, const Use& use) const;
  void append_tokens(std::span<const std::int32_t> ids);
  bool hooked(Recorder* recorder, int step) const {
    return pass_hook(options_, recorder, step, seen_) != nullptr;
  }
  void check_room(std::size_t more) const;
  void check_request(std::span<const std::int32_t> ids, const ForwardRequest& request) const;
  void drop_newest(std::size_t count);
  std::vector<std::int32_t> next_positions(std::size_t count) const;
  std::vector<std::int32_t> next_prompt_chunk() const;

  std::shared_ptr<const LoadedModel> model_;
  TokenTable tokens_;
  LiveRunOptions options_;
  std::vector<LayerState> layers_;
  std::vector<LayerStatistics> statistics_;
  at::Tensor logits_;
  int seen_ = 0;
  int step_ = 0;
};

void LiveRunOnModel::check_room(std::size_t more) const {
  const auto wanted = static_cast<std::int64_t>(seen_) + static_cast<std::int64_t>(more);
  KVSCOPE_CHECK(options_.beyond_context || wanted <= model_->config().context_length,
                ErrorCode::usage,
                fmt::format("{} tokens do not fit the model's context of {}", wanted,
                            model_->config().context_length),
                model_->config().name,
                "shorten the prompt, ask for fewer new tokens, or pass --allow-beyond-context");
}

/// Positions of the next tokens: those of the table, continued by counting.
std::vector<std::int32_t> LiveRunOnModel::next_positions(std::size_t count) const {
  std::vector<std::int32_t> positions;
  for (std::size_t row = 0; row < count; ++row) {
    const std::size_t token = static_cast<std::size_t>(seen_) + row;
    positions.push_back(token < tokens_.position.size() ? tokens_.position[token]
                        : positions.empty()             ? tokens_.position.back() + 1
                                                        : positions.back() + 1);
  }
  return positions;
}

void LiveRunOnModel::append_tokens(std::span<const std::int32_t> ids) {
  const std::vector<std::int32_t> positions = next_positions(ids.size());
  for (std::size_t row = 0; row < ids.size(); ++row) {
    if (seen_ + static_cast<int>(row) < tokens_.size()) {
      continue;  // a token of the prompt
    }
    const Tokenizer* tokenizer = model_->tokenizer();
    tokens_.append(ids[row], positions[row], Segment::generated,
                   tokenizer == nullptr ? std::string() : tokenizer->piece(ids[row]));
  }
  seen_ += static_cast<int>(ids.size());
}

void LiveRunOnModel::watch_layer(const LayerPass& seen, const PassInput& input, const Use& use) {
  const auto index = static_cast<std::size_t>(seen.layer);
  const LayerState& state = layers_[index];
  const StatisticsPass pass{seen.queries, seen.lse, seen.positions, use.decode, seen.stats};
  if (use.remember) {
    remember_queries(statistics_[index], pass, options_.statistics_window);
  }
  if (use.statistics) {
    add_columns(statistics_[index], pass, state, shape(), seen.layer);
  }
  if (use.observer != nullptr) {
    use.observer->layer(seen);
  }
  if (use.recorder != nullptr && use.recorder->wants(seen.layer)) {
    const LayerRecord record = record_of(seen, state, shape(), input.first_token, use.decode);
    if (use.decode) {
      use.recorder->decode_layer(step_ + 1, record);
    } else {
      use.recorder->prefill_layer(record);
    }
  }
}

AttentionWanted LiveRunOnModel::wanted(int layer, int step, const PassInput& input,
                                       const Use& use) const {
  AttentionWanted wanted =
      wanted_by(use.recorder, step, layer, layers_[static_cast<std::size_t>(layer)],
                input.first_token, static_cast<int>(input.ids.size()));
  wanted.columns = wanted.columns || use.statistics || use.observer != nullptr;
  return wanted;
}

at::Tensor LiveRunOnModel::pass(const PassInput& input, const Use& use) {
  const at::NoGradGuard no_grad;
  KVSCOPE_CHECK(use.recorder == nullptr || use.decode || !layers_.front().cut(),
                ErrorCode::unsupported, "a prompt read on a cut cache cannot be recorded",
                "live run", "record the prompt on a full cache, and the steps on the cut one");
  PassWatch watch;
  watch.stop = options_.stop;
  const bool observed = use.observer != nullptr;
  if (use.remember || use.statistics || use.recorder != nullptr || observed) {
    watch.layer = [&](const LayerPass& seen) { watch_layer(seen, input, use); };
    watch.keys_pre_rope = use.recorder != nullptr && !use.decode;
    watch.rows = [&](int layer, int rows) {
      const bool all =
          use.statistics || observed || (use.recorder != nullptr && use.recorder->wants(layer));
      return all ? rows : std::min(rows, options_.statistics_window);
    };
  }
  const int step = use.decode ? step_ + 1 : 0;
  if (use.statistics || use.recorder != nullptr || observed) {
    watch.statistics = [&](int layer) { return wanted(layer, step, input, use); };
  }
  if (options_.progress) {
    watch.progress = [&](int layer) {
      const auto done = static_cast<std::int64_t>(input.ids.size()) * (layer + 1) / shape().layers;
      options_.progress(seen_ + static_cast<int>(done), use.tokens_total, layer);
    };
  }
  watch.hook = pass_hook(options_, use.recorder, step, input.first_token);
  try {
    const at::Tensor hidden = run_pass(*model_, layers_, input, watch);
    record_logits(*model_, hidden, step, input.first_token, use.recorder);
    return hidden;
  } catch (...) {
    // Layers already seen have counted queries that are gone again.
    statistics_.assign(layers_.size(), {});
    throw;
  }
}

at::Tensor LiveRunOnModel::newest_logits(const at::Tensor& hidden) const {
  return head_logits(*model_, hidden.narrow(0, hidden.size(0) - 1, 1))[0];
}

std::vector<std::int32_t> LiveRunOnModel::next_prompt_chunk() const {
  const int left = tokens_.prompt_tokens - seen_;
  const int count = options_.prefill_chunk > 0 ? std::min(options_.prefill_chunk, left) : left;
  return {tokens_.id.begin() + seen_, tokens_.id.begin() + seen_ + count};
}

void LiveRunOnModel::prefill(bool statistics, Recorder* recorder) {
  KVSCOPE_CHECK(seen_ == 0, ErrorCode::usage, "the prompt was run already", "prefill",
                "start another run");
  while (seen_ < tokens_.prompt_tokens) {
    const std::vector<std::int32_t> ids = next_prompt_chunk();
    const std::vector<std::int32_t> positions = next_positions(ids.size());
    const at::Tensor hidden =
        pass({ids, positions, seen_, tokens_.prompt_tokens, hooked(recorder, 0)},
             {statistics, true, recorder, false, tokens_.prompt_tokens});
    append_tokens(ids);
    if (seen_ == tokens_.prompt_tokens) {
      logits_ = newest_logits(hidden);
    }
  }
}

void LiveRunOnModel::decode(std::int32_t token, Recorder* recorder) {
  KVSCOPE_CHECK(seen_ >= tokens_.prompt_tokens, ErrorCode::usage, "the prompt was not run yet",
                "decode", "call prefill first");
  KVSCOPE_CHECK(token >= 0 && token < shape().vocabulary, ErrorCode::usage,
                fmt::format("token id {}", token), "decode",
                fmt::format("ids are 0 to {}", shape().vocabulary - 1));
  check_room(1);
  const std::vector<std::int32_t> ids = {token};
  const std::vector<std::int32_t> positions = next_positions(1);
  const bool statistics = statistics_.front().sum.defined();
  const at::Tensor hidden =
      pass({ids, positions, seen_, tokens_.prompt_tokens, hooked(recorder, step_ + 1)},
           {statistics, true, recorder, true, seen_ + 1});
  append_tokens(ids);
  ++step_;
  logits_ = newest_logits(hidden);
  if (recorder != nullptr) {
    recorder->decode_step(step_, token, tokens_.text(seen_ - 1), logits_);
  }
}

void LiveRunOnModel::check_request(std::span<const std::int32_t> ids,
                                   const ForwardRequest& request) const {
  KVSCOPE_CHECK(!ids.empty(), ErrorCode::usage, "no tokens to run", "forward",
                "pass at least one token id");
  KVSCOPE_CHECK(request.key_gradient == KeyGradient::none || (request.observe && ids.size() > 1),
                ErrorCode::usage, "gradients of keys need an observer and two tokens", "forward",
                "set observe, and run at least two tokens");
  check_room(ids.size());
  for (std::size_t row = 0; row < ids.size(); ++row) {
    const std::size_t token = static_cast<std::size_t>(seen_) + row;
    KVSCOPE_CHECK(ids[row] >= 0 && ids[row] < shape().vocabulary, ErrorCode::usage,
                  fmt::format("token id {}", ids[row]), "forward",
                  fmt::format("ids are 0 to {}", shape().vocabulary - 1));
    KVSCOPE_CHECK(!request.append || token >= tokens_.id.size() || tokens_.id[token] == ids[row],
                  ErrorCode::usage, fmt::format("token {} differs from the prompt's", token),
                  "forward", "run the prompt's own tokens, in order");
  }
}

void LiveRunOnModel::drop_newest(std::size_t count) {
  for (LayerState& layer : layers_) {
    layer.drop_newest(static_cast<int>(count));
  }
}

void LiveRunOnModel::forward(std::span<const std::int32_t> token_ids,
                             const ForwardRequest& request) {
  check_request(token_ids, request);
  const at::NoGradGuard no_grad;
  const bool in_prompt = seen_ < tokens_.prompt_tokens;
  const std::vector<std::int32_t> positions = next_positions(token_ids.size());
  const int seen = seen_ + static_cast<int>(token_ids.size());
  PassObserver observer(model_, layers_, request, tokens_.prompt_tokens,
                        {0, seen, step_, in_prompt ? Phase::prefill : Phase::decode});
  const Use use{request.append && request.statistics,
                request.append,
                nullptr,
                !in_prompt,
                in_prompt ? tokens_.prompt_tokens : seen,
                request.observe ? &observer : nullptr};
  const bool all_rows = request.key_gradient != KeyGradient::none || hooked(nullptr, 0);
  const at::Tensor hidden =
      pass({token_ids, positions, seen_, tokens_.prompt_tokens, all_rows}, use);
  try {
    observer.back(token_ids, hidden, options_.stop);
  } catch (...) {
    drop_newest(token_ids.size());
    statistics_.assign(layers_.size(), {});
    throw;
  }
  if (request.append) {
    append_tokens(token_ids);
    step_ += in_prompt ? 0 : 1;
  } else {
    drop_newest(token_ids.size());
  }
  if (request.append || !request.observe) {
    logits_ = newest_logits(hidden);
  }
}

void LiveRunOnModel::store_as(const CacheForm& form) {
  const at::NoGradGuard no_grad;
  for (int layer = 0; layer < shape().layers; ++layer) {
    KVSCOPE_CHECK(form.positions == CacheForm::Positions::original || shape().window_of(layer) == 0,
                  ErrorCode::unsupported,
                  fmt::format("layer {} has a sliding window; its slots cannot move", layer),
                  "cache form", "use a method that keeps positions");
    layers_[static_cast<std::size_t>(layer)].store_as(form, shape().rope_of(layer));
  }
}

void LiveRunOnModel::apply(const Decision& decision) {
  const at::NoGradGuard no_grad;
  KVSCOPE_CHECK(decision.kv_heads == shape().kv_heads && decision.tokens <= seen_, ErrorCode::usage,
                "the decision was made for another run", "apply",
                "decide on this run, or on a capture of the same prompt and model");
  store_as(decision.form);
  // A cache that was cut before has the earlier events in it already.
  const int event = layers_.front().cut() ? static_cast<int>(decision.events.size()) - 1 : -1;
  for (const LayerDecision& layer : decision.layers) {
    KVSCOPE_CHECK(layer.layer >= 0 && layer.layer < shape().layers, ErrorCode::usage,
                  fmt::format("layer {}", layer.layer), "apply",
                  "the decision was made for another model");
    const auto index = static_cast<std::size_t>(layer.layer);
    LayerState& state = layers_[index];
    const LayerCache cut = apply_decision(state.cache(), layer, decision.form, event);
    follow_cut(statistics_[index], state.slots(), cut.slots, shape());
    state.replace(cut, shape().rope_of(layer.layer));
    if (decision.form.positions != CacheForm::Positions::original) {
      statistics_[index].newest.clear();  // they stood at positions that are gone
    }
  }
}

at::Tensor LiveRunOnModel::logits() {
  KVSCOPE_CHECK(logits_.defined(), ErrorCode::missing_data, "there are no logits yet", "live run",
                "run the prompt first");
  return logits_;
}

std::unique_ptr<LiveRun> LiveRunOnModel::fork() const {
  const at::NoGradGuard no_grad;
  auto copy = std::make_unique<LiveRunOnModel>(*this);
  for (LayerState& layer : copy->layers_) {
    layer = layer.clone();
  }
  for (LayerStatistics& statistics : copy->statistics_) {
    statistics = statistics.clone();
  }
  return copy;
}

std::int64_t LiveRunOnModel::cache_bytes() const {
  std::int64_t bytes = 0;
  for (const LayerState& layer : layers_) {
    bytes += layer.live_bytes();
  }
  return bytes;
}

at::Tensor LiveRunOnModel::prompt_logits() {
  const at::NoGradGuard no_grad;
  LiveRunOnModel fresh(model_, tokens_, options_);
  fresh.options_.hook = nullptr;
  const auto prompt = static_cast<std::size_t>(tokens_.prompt_tokens);
  const std::vector<std::int32_t> ids(tokens_.id.begin(),
                                      tokens_.id.begin() + tokens_.prompt_tokens);
  const std::vector<std::int32_t> positions = fresh.next_positions(prompt);
  const Use use{false, false, nullptr, false, tokens_.prompt_tokens};
  return head_logits(*model_, fresh.pass({ids, positions, 0, tokens_.prompt_tokens, true}, use));
}

}  // namespace
}  // namespace detail

std::unique_ptr<LiveRun> LiveRun::start(std::shared_ptr<const Model> model, TokenTable prompt,
                                        LiveRunOptions options) {
  const auto loaded = std::dynamic_pointer_cast<const detail::LoadedModel>(model);
  KVSCOPE_CHECK(loaded != nullptr, ErrorCode::usage, "no loaded model", "LiveRun::start",
                "use Model::load");
  detail::check_run(loaded->config(), prompt, options);
  return std::make_unique<detail::LiveRunOnModel>(loaded, std::move(prompt), std::move(options));
}

}  // namespace kvscope
