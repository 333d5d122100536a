#include "generation.h"

#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/core/merge_books.h"

namespace kvscope::cli {
namespace {

using Clock = std::chrono::steady_clock;

at::Tensor log_probabilities(const at::Tensor& logits) {
  return at::log_softmax(logits.to(at::kCPU, at::kFloat), 0).contiguous();
}

/// KL(p || q) in nats, both as natural log probabilities over the vocabulary.
double kl(const at::Tensor& log_p, const at::Tensor& log_q) {
  const float* p = log_p.const_data_ptr<float>();
  const float* q = log_q.const_data_ptr<float>();
  double sum = 0;
  for (std::int64_t token = 0; token < log_p.numel(); ++token) {
    const double weight = std::exp(static_cast<double>(p[token]));
    if (weight > 0) {
      sum += weight * (static_cast<double>(p[token]) - static_cast<double>(q[token]));
    }
  }
  return std::max(0.0, sum);
}

/// ||a - b|| / ||a|| of two vectors; 0 where both are 0.
double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const float* x = a.const_data_ptr<float>();
  const float* y = b.const_data_ptr<float>();
  double apart = 0;
  double whole = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    apart += difference * difference;
    whole += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return apart > 0 ? std::sqrt(apart / whole) : 0;
}

TokenTable context_of(const TokenTable& prompt) {
  TokenTable context;
  for (int token = 0; token < prompt.context_tokens; ++token) {
    const auto at = static_cast<std::size_t>(token);
    context.append(prompt.id[at], prompt.position[at], prompt.segment[at], prompt.text(token));
  }
  context.prompt_tokens = context.context_tokens = prompt.context_tokens;
  return context;
}

double mean(const std::vector<double>& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace

double MethodAnswer::mean_bytes() const {
  double sum = 0;
  for (const std::int64_t bytes : step_bytes) {
    sum += static_cast<double>(bytes);
  }
  return step_bytes.empty() ? static_cast<double>(cache_bytes)
                            : sum / static_cast<double>(step_bytes.size());
}

std::int64_t MethodAnswer::peak_bytes() const {
  std::int64_t peak = cache_bytes;
  for (const std::int64_t bytes : step_bytes) {
    peak = std::max(peak, bytes);
  }
  return peak;
}

double MethodAnswer::mean_divergence() const {
  return mean(divergence);
}

double MethodAnswer::mean_free_divergence() const {
  return mean(free_divergence);
}

double MethodAnswer::mean_output_error() const {
  return mean(output_error);
}

Generation::Generation(std::shared_ptr<const Model> model, const TokenTable& prompt,
                       const GenerationOptions& options, const LiveRunOptions& live)
    : model_(std::move(model)),
      prompt_(prompt),
      options_(options),
      live_(live),
      tokenizer_(options_.tokenizer ? options_.tokenizer : model_->file().tokenizer()) {
  KVSCOPE_CHECK(!options_.cut_after_context || prompt_.context_tokens < prompt_.prompt_tokens,
                ErrorCode::usage, "there is no question after the context", "--cut-after context",
                "pass --question TEXT, or cut after the prompt");
  const TokenTable& read = options_.cut_after_context ? context_of(prompt_) : prompt_;
  for (const Method& method : options_.methods) {
    live_.statistics_window =
        std::max(live_.statistics_window, queries_needed(method, read.prompt_tokens));
    for (const Budget& budget : options_.budgets) {
      check_method(method, budget, {model_->shape(), model_->file().hash(), read.prompt_tokens});
    }
  }
  if (options_.output_error) {
    tap_ = std::make_shared<StepOutputs>(static_cast<std::size_t>(model_->shape().layers));
    live_.hook = [tap = tap_](HookPoint point, int layer, int, const at::Tensor& tensor) {
      if (point == HookPoint::block_attention) {
        (*tap)[static_cast<std::size_t>(layer)] = tensor[-1].to(at::kCPU, at::kFloat, false, true);
      }
    };
  }
  const auto start = Clock::now();
  prefilled_ = LiveRun::start(model_, read, live_);
  prefilled_->prefill(true, nullptr);
  prefill_seconds_ = seconds_since(start);
  run_full();
}

/// A run on which the method may start: before the prompt, or after it.
std::unique_ptr<LiveRun> Generation::run_for(const Method& method) const {
  if (!method.cuts_while_reading()) {
    return prefilled_->fork();
  }
  return LiveRun::start(model_, options_.cut_after_context ? context_of(prompt_) : prompt_, live_);
}

/// The full cache after the prompt and the tokens of an answer.
std::unique_ptr<LiveRun> Generation::shadow_of(std::span<const std::int32_t> answer) const {
  auto shadow = prefilled_->fork();
  read_question(*shadow);
  shadow->forward(answer, ForwardRequest{});
  return shadow;
}

/// What comes behind the context, if the cut was made there.
void Generation::read_question(LiveRun& run) const {
  if (options_.cut_after_context) {
    run.forward(std::span(prompt_.id).subspan(static_cast<std::size_t>(prompt_.context_tokens)),
                ForwardRequest{});
  }
}

/// What the newest pass put into the tap.
StepOutputs Generation::newest_outputs() const {
  return tap_ == nullptr ? StepOutputs() : *tap_;
}

void Generation::judge_outputs(std::size_t step, MethodAnswer& answer) const {
  if (tap_ == nullptr) {
    return;
  }
  const StepOutputs& full = full_.outputs[step];
  double sum = 0;
  for (std::size_t layer = 0; layer < full.size(); ++layer) {
    sum += relative_error(full[layer], (*tap_)[layer]) / static_cast<double>(full.size());
  }
  answer.output_error.push_back(sum);
}

void Generation::run_full() {
  const auto start = Clock::now();
  const auto run = prefilled_->fork();
  read_question(*run);
  full_.cache_bytes = run->cache_bytes();
  full_.log_probabilities.push_back(log_probabilities(run->logits()));
  for (int step = 1; step <= options_.new_tokens; ++step) {
    const std::int32_t token = sample(run->logits(), options_.sampling, step);
    full_.tokens.push_back(token);
    if (tokenizer_->is_end_of_generation(token)) {
      break;
    }
    run->decode(token, nullptr);
    full_.outputs.push_back(newest_outputs());
    full_.step_bytes.push_back(run->cache_bytes());
    full_.log_probabilities.push_back(log_probabilities(run->logits()));
  }
  full_.text = tokenizer_->decode(full_.tokens);
  full_.seconds = seconds_since(start);
}

MethodAnswer Generation::answer(const Method& method, const Budget& budget) {
  MethodAnswer answer;
  answer.method = method.text();
  answer.keep = budget.text();
  auto start = Clock::now();
  const auto run = run_for(method);
  const auto compressor = start_compressor(*run, method, budget);
  compressor->prefill();
  answer.compress_seconds = seconds_since(start);
  start = Clock::now();
  read_question(*run);
  answer.cache_bytes = run->cache_bytes();

  // Free-running and teacher-forced are one run until the first token that differs.
  std::unique_ptr<LiveRun> forced;
  std::unique_ptr<Compressor> forced_compressor;
  std::unique_ptr<LiveRun> shadow;
  LiveRun* judged = run.get();
  answer.divergence.push_back(
      kl(full_.log_probabilities.front(), log_probabilities(run->logits())));
  answer.free_divergence = answer.divergence;
  bool ended = false;
  for (int step = 1; step <= options_.new_tokens; ++step) {
    const auto index = static_cast<std::size_t>(step - 1);
    const bool full_goes_on = static_cast<std::size_t>(step) < full_.log_probabilities.size();
    if (ended && !full_goes_on) {
      break;
    }
    std::int32_t token = -1;
    if (!ended) {
      token = sample(run->logits(), options_.sampling, step);
      answer.tokens.push_back(token);
      const bool same = index < full_.tokens.size() && full_.tokens[index] == token;
      if (!same && answer.first_divergence < 0) {
        answer.first_divergence = static_cast<int>(index);
        forced = full_goes_on ? run->fork() : nullptr;
        forced_compressor = full_goes_on ? compressor->onto(*forced) : nullptr;
        judged = forced.get();
      }
      ended = tokenizer_->is_end_of_generation(token);
      if (!ended) {
        run->decode(token, nullptr);
        if (full_goes_on && judged == run.get()) {
          judge_outputs(index, answer);
        }
        answer.step_bytes.push_back(run->cache_bytes());
        if (answer.first_divergence >= 0) {
          if (shadow == nullptr) {
            shadow = shadow_of(answer.tokens);
          } else {
            shadow->decode(token, nullptr);
          }
        }
        const at::Tensor full = shadow != nullptr
                                    ? log_probabilities(shadow->logits())
                                    : full_.log_probabilities[static_cast<std::size_t>(step)];
        answer.free_divergence.push_back(kl(full, log_probabilities(run->logits())));
        compressor->after_step();
      }
    }
    if (full_goes_on && judged != nullptr) {
      if (judged == forced.get()) {
        forced->decode(full_.tokens[index], nullptr);
        judge_outputs(index, answer);
        forced_compressor->after_step();
      }
      answer.divergence.push_back(kl(full_.log_probabilities[static_cast<std::size_t>(step)],
                                     log_probabilities(judged->logits())));
    }
  }
  answer.decision = compressor->decision();
  answer.text = tokenizer_->decode(answer.tokens);
  answer.decode_seconds = seconds_since(start);
  return answer;
}

nlohmann::json answers_json(const std::string& model_name, const std::string& capture_hash,
                            const FullAnswer& full, const std::vector<MethodAnswer>& answers) {
  nlohmann::json rows = nlohmann::json::array();
  for (const MethodAnswer& answer : answers) {
    const MergeBooks books = merge_books(answer.decision);
    rows.push_back({{"method", answer.method},
                    {"keep", answer.keep},
                    {"text", answer.text},
                    {"tokens", answer.tokens},
                    {"first_divergence", answer.first_divergence},
                    {"mean_next_token_kl_nats", answer.mean_divergence()},
                    {"next_token_kl_nats", answer.divergence},
                    {"mean_free_running_kl_nats", answer.mean_free_divergence()},
                    {"free_running_kl_nats", answer.free_divergence},
                    {"cache_bytes", answer.cache_bytes},
                    {"mean_cache_bytes", answer.mean_bytes()},
                    {"peak_cache_bytes", answer.peak_bytes()},
                    {"step_cache_bytes", answer.step_bytes},
                    {"cuts", answer.decision.events.size()},
                    {"merge_books",
                     {{"tokens", books.tokens},
                      {"removed_slots", books.removed_slots},
                      {"dropped_slots", books.dropped_slots},
                      {"held", books.held},
                      {"evicted", books.evicted},
                      {"dropped", books.dropped},
                      {"clamped", books.clamped},
                      {"uncounted", books.uncounted}}},
                    {"compress_seconds", answer.compress_seconds},
                    {"decode_seconds", answer.decode_seconds}});
  }
  return {{"format", "kvscope.answers"},
          {"version_major", 1},
          {"model", model_name},
          {"capture_hash", capture_hash},
          {"full",
           {{"text", full.text},
            {"tokens", full.tokens},
            {"cache_bytes", full.cache_bytes},
            {"step_cache_bytes", full.step_bytes}}},
          {"methods", rows}};
}

}  // namespace kvscope::cli
