#include "kvscope/attach/attached_run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "attached_run_impl.h"
#include "kvscope/capture/output_factor.h"
#include "kvscope/core/error.h"
#include "output_files.h"

namespace kvscope {

AttachedRun::Impl::Impl(AttachRequest request, std::vector<at::Tensor> output_weights)
    : request_(std::move(request)), output_weights_(std::move(output_weights)) {
  const ModelShape& shape = request_.model.shape;
  KVSCOPE_CHECK(
      std::ssize(output_weights_) == shape.layers, ErrorCode::usage,
      fmt::format("{} output projections for {} layers", output_weights_.size(), shape.layers),
      "output weights", "pass one for each layer");
  for (const at::Tensor& weights : output_weights_) {
    KVSCOPE_CHECK(
        weights.dim() == 2 && weights.is_floating_point() && weights.size(0) == shape.hidden_dim &&
            weights.size(1) == std::int64_t{shape.query_heads} * shape.head_dim,
        ErrorCode::usage, "an output projection has another type or shape", "output weights",
        fmt::format("pass floats [{}, {}]", shape.hidden_dim, shape.query_heads * shape.head_dim));
  }
  const bool force = request_.capture.force;
  detail::refuse_existing(request_.path, force);
  if (request_.model.method != "full") {
    detail::refuse_existing(detail::decision_path(request_.path), force);
  }
}

at::Tensor AttachedRun::Impl::weights_of(int layer) const {
  const ModelShape& shape = request_.model.shape;
  return output_weights_[static_cast<std::size_t>(layer)]
      .detach()
      .reshape({shape.hidden_dim, shape.query_heads, shape.head_dim})
      .permute({1, 2, 0})
      .to(at::kFloat)
      .contiguous();
}

namespace {

TokenTable prompt_table(const FedTokens& tokens, int context_tokens) {
  TokenTable table;
  for (std::size_t token = 0; token < tokens.id.size(); ++token) {
    const bool context = static_cast<int>(token) < context_tokens;
    table.append(tokens.id[token], static_cast<std::int32_t>(token),
                 context ? Segment::context : Segment::question,
                 token < tokens.piece.size() ? tokens.piece[token] : std::string());
  }
  table.prompt_tokens = table.size();
  table.context_tokens = context_tokens;
  return table;
}

}  // namespace

void AttachedRun::Impl::give_prompt(const FedTokens& prompt, int context_tokens) {
  KVSCOPE_CHECK(!recorder_, ErrorCode::usage, "the run has begun", "prompt",
                "give the prompt before the first pass");
  const auto tokens = static_cast<int>(prompt.id.size());
  KVSCOPE_CHECK(tokens > 0 && context_tokens >= 0 && context_tokens <= tokens, ErrorCode::usage,
                fmt::format("a prompt of {} tokens, {} of them context", tokens, context_tokens),
                "prompt", "give at least one token, and no more context than prompt");
  prompt_ = prompt_table(prompt, context_tokens);
}

void AttachedRun::Impl::name_method(const std::string& method) {
  KVSCOPE_CHECK(!recorder_, ErrorCode::usage, "the run has begun", "method",
                "name the method before the first pass");
  detail::refuse_existing(detail::decision_path(request_.path), request_.capture.force);
  request_.model.method = method;
}

void AttachedRun::Impl::start(const FedTokens& tokens) {
  if (!prompt_) {
    prompt_ = prompt_table(tokens, static_cast<int>(tokens.id.size()));
  }
  index_ = settle(request_, *prompt_, notes_);
  const auto factor = [this](int layer) {
    at::Tensor& known = factors_[layer];
    return known.defined() ? known : known = output_factor(weights_of(layer));
  };
  recorder_ = std::make_unique<Recorder>(request_.path, request_.capture, index_, *prompt_, factor,
                                         [this](int layer) { return weights_of(layer); });
  reader_.emplace(index_, request_.capture);
}

void AttachedRun::Impl::check_positions(const FedTokens& tokens) const {
  for (std::size_t row = 0; row < tokens.position.size(); ++row) {
    const int token = seen_ + static_cast<int>(row);
    KVSCOPE_CHECK(tokens.position[row] == token, ErrorCode::unsupported,
                  fmt::format("token {} stands at position {}", token, tokens.position[row]),
                  "positions",
                  seen_ == 0 ? "run one unpadded sequence on an empty cache"
                             : "a capture is one sequence: begin another one for another prompt; "
                               "caches that go back or rotate anew cannot be recorded");
  }
}

void AttachedRun::Impl::begin_pass(const FedTokens& tokens) {
  KVSCOPE_CHECK(!tokens.id.empty() && tokens.position.size() == tokens.id.size(), ErrorCode::usage,
                "a pass without tokens, or without a position for each", "begin_pass",
                "pass ids and positions of one length");
  KVSCOPE_CHECK(!pass_, ErrorCode::unsupported, "a forward pass was not finished",
                fmt::format("tokens {} and on", seen_), "begin another capture after an error");
  check_positions(tokens);
  if (!recorder_) {
    start(tokens);
  }
  if (in_prompt()) {
    const auto first = prompt_->id.begin() + seen_;
    const bool fits = seen_ + static_cast<int>(tokens.id.size()) <= prompt_->prompt_tokens;
    KVSCOPE_CHECK(fits && std::equal(tokens.id.begin(), tokens.id.end(), first), ErrorCode::usage,
                  "the pass does not read the prompt that was given",
                  fmt::format("tokens {} and on", seen_), "give the very ids that are fed");
  }
  pass_ = tokens;
  reader_->begin_pass(seen_, rows());
  layer_seen_.assign(static_cast<std::size_t>(index_.shape.layers), false);
  held_.clear();
  if (!in_prompt() && rows() > 1) {
    held_.resize(static_cast<std::size_t>(planned_rows()));
  }
}

void AttachedRun::Impl::attention(const AttentionCall& call) {
  KVSCOPE_CHECK(pass_.has_value(), ErrorCode::unsupported, "attention outside a forward pass",
                fmt::format("layer {}", call.layer),
                "run the model itself, not its attention alone");
  detail::check_call(call, index_.shape, rows());
  const auto layer = static_cast<std::size_t>(call.layer);
  KVSCOPE_CHECK(!layer_seen_[layer], ErrorCode::unsupported, "a layer ran twice in one pass",
                fmt::format("layer {}", call.layer),
                "switch gradient checkpointing off (model.eval() does)");
  layer_seen_[layer] = true;
  if (!recorder_->wants(call.layer) || (!in_prompt() && planned_rows() == 0)) {
    return;
  }
  if (in_prompt()) {
    recorder_->prefill_layer(reader_->prompt(call));
  } else {
    step_layer(call);
  }
}

void AttachedRun::Impl::step_layer(const AttentionCall& call) {
  std::vector<LayerRecord> records = reader_->steps(call, planned_rows(), steps_);
  if (rows() == 1) {
    recorder_->decode_layer(steps_ + 1, records.front());
    return;
  }
  for (std::size_t row = 0; row < records.size(); ++row) {
    held_[row].layers.push_back(std::move(records[row]));
  }
}

void AttachedRun::Impl::hook(const std::string& name, int layer, const at::Tensor& tensor) {
  const HookPoint point = parse_hook(name);
  if (!pass_ || (!in_prompt() && planned_rows() == 0)) {
    return;
  }
  const at::Tensor seen = tensor.detach();
  if (in_prompt() || rows() == 1) {
    recorder_->hook(point, layer, in_prompt() ? 0 : steps_ + 1, seen_, seen);
    return;
  }
  for (int row = 0; row < planned_rows(); ++row) {
    held_[static_cast<std::size_t>(row)].hooks.push_back(
        {point, {layer, seen.narrow(seen.dim() - 2, row, 1)}});
  }
}

void AttachedRun::Impl::check_layers() const {
  std::vector<int> missing;
  for (const int layer : index_.layers) {
    if (!layer_seen_[static_cast<std::size_t>(layer)]) {
      missing.push_back(layer);
    }
  }
  KVSCOPE_CHECK(
      missing.empty(), ErrorCode::unsupported,
      fmt::format("layers {} did not call the attention function", fmt::join(missing, ", ")),
      index_.architecture, "capture a model whose layers use transformers' AttentionInterface");
}

void AttachedRun::Impl::end_prompt(const at::Tensor& logits) {
  if (logits.defined() && logits.size(0) == rows() &&
      recorder_->wants_logits(0, seen_, logits.size(0))) {
    recorder_->hook(HookPoint::logits, index_.shape.layers, 0, seen_, logits.to(at::kFloat));
  }
  if (seen_ + rows() == prompt_->prompt_tokens) {
    recorder_->prefill_logits(logits.defined() ? logits[logits.size(0) - 1].to(at::kFloat)
                                               : at::Tensor());
    reader_->end_prompt();
  }
}

void AttachedRun::Impl::end_steps(const at::Tensor& logits) {
  const int planned = planned_rows();
  for (int row = 0; row < planned; ++row) {
    const int step = steps_ + 1;
    if (!held_.empty()) {
      const HeldRow& held = held_[static_cast<std::size_t>(row)];
      for (const auto& [point, seen] : held.hooks) {
        recorder_->hook(point, seen.first, step, seen_ + row, seen.second);
      }
      for (const LayerRecord& record : held.layers) {
        recorder_->decode_layer(step, record);
      }
    }
    const auto index = static_cast<std::size_t>(row);
    const std::int64_t known = logits.defined() ? logits.size(0) : 0;
    const std::int64_t at = row - (rows() - known);  // the newest rows' logits are there
    const at::Tensor newest = at >= 0 ? logits[at].to(at::kFloat) : at::Tensor();
    if (newest.defined() && recorder_->wants_logits(step, seen_ + row, 1)) {
      recorder_->hook(HookPoint::logits, index_.shape.layers, step, seen_ + row,
                      newest.unsqueeze(0));
    }
    // Several tokens at once after the prompt: asked, not generated.
    recorder_->decode_step(step, pass_->id[index],
                           index < pass_->piece.size() ? pass_->piece[index] : std::string(),
                           newest, rows() > 1 ? Segment::question : Segment::generated);
    steps_ = step;
  }
  beyond_ += rows() - planned;
}

void AttachedRun::Impl::end_pass(const at::Tensor& logits) {
  if (!pass_) {
    return;
  }
  check_layers();
  if (in_prompt()) {
    end_prompt(logits);
  } else {
    end_steps(logits);
  }
  seen_ += rows();
  pass_.reset();
  held_.clear();
}

}  // namespace kvscope
