#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "kvscope/core/budget.h"
#include "kvscope/core/decision.h"
#include "kvscope/methods/method.h"
#include "kvscope/model/tokenizer.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::cli {

struct GenerationOptions {
  std::span<const Method> methods;  ///< checked before the prompt is read
  std::span<const Budget> budgets;
  int new_tokens = 64;
  bool cut_after_context = false;  ///< compress before the question is read
  /// Attention outputs of the answer's steps too, for `output_error`; the last layer then computes
  /// the prompt's rows as the others do.
  bool output_error = false;
  Sampling sampling;
  std::shared_ptr<const Tokenizer> tokenizer;  ///< of the prompt; empty = the model's own
};

/// Of one decode step, [layers] of [hidden_dim]: attention's output after W_O.
using StepOutputs = std::vector<at::Tensor>;

/// What the uncompressed run said.
struct FullAnswer {
  std::vector<std::int32_t> tokens;
  std::string text;
  std::vector<at::Tensor> log_probabilities;  ///< [tokens + 1] of [vocabulary], natural log
  std::int64_t cache_bytes = 0;               ///< when the answer begins
  std::vector<std::int64_t> step_bytes;       ///< [steps]
  std::vector<StepOutputs> outputs;           ///< [steps]; empty unless asked
  double seconds = 0;
};

/// What one method's run said, against the full one.
struct MethodAnswer {
  std::string method;
  std::string keep;
  Decision decision;
  std::vector<std::int32_t> tokens;
  std::string text;
  int first_divergence = -1;       ///< index of the first answer token that differs; -1 = none
  std::vector<double> divergence;  ///< KL(full || compressed) in nats per position, teacher-forced
  /// The same on the method's own answer, a full cache reading along (a shadow run).
  std::vector<double> free_divergence;
  /// Per teacher-forced step, mean over layers of ||o_full - o|| / ||o_full||, o attention's output
  /// after W_O at the newest token, each run on its own hidden states; empty unless asked.
  std::vector<double> output_error;
  std::int64_t cache_bytes = 0;  ///< after the cut, when the answer begins
  std::vector<std::int64_t>
      step_bytes;  ///< [steps] what each new token attends to, its own slot too
  double compress_seconds = 0;
  double decode_seconds = 0;
  double mean_divergence() const;
  double mean_free_divergence() const;
  double mean_output_error() const;
  double mean_bytes() const;        ///< over the steps; `cache_bytes` without any
  std::int64_t peak_bytes() const;  ///< from the first cut on
};

/// One prefill, then the full answer and each method x budget on a copy of the cache. A method that
/// cuts while the prompt is read reads it for itself.
class Generation {
 public:
  /// Throws Error{usage} if one of the methods cannot meet one of the budgets, before any forward
  /// pass.
  Generation(std::shared_ptr<const Model> model, const TokenTable& prompt,
             const GenerationOptions& options, const LiveRunOptions& live);

  const FullAnswer& full() const { return full_; }
  MethodAnswer answer(const Method& method, const Budget& budget);
  double prefill_seconds() const { return prefill_seconds_; }

 private:
  std::unique_ptr<LiveRun> run_for(const Method& method) const;
  std::unique_ptr<LiveRun> shadow_of(std::span<const std::int32_t> answer) const;
  void read_question(LiveRun& run) const;
  void run_full();
  StepOutputs newest_outputs() const;
  void judge_outputs(std::size_t step, MethodAnswer& answer) const;

  std::shared_ptr<const Model> model_;
  TokenTable prompt_;
  GenerationOptions options_;
  LiveRunOptions live_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<StepOutputs> tap_;  ///< of the newest pass of any run; null unless asked
  std::unique_ptr<LiveRun> prefilled_;
  FullAnswer full_;
  double prefill_seconds_ = 0;
};

/// The file `report --answers` reads (format "kvscope.answers", version 1).
nlohmann::json answers_json(const std::string& model_name, const std::string& capture_hash,
                            const FullAnswer& full, const std::vector<MethodAnswer>& answers);

}  // namespace kvscope::cli
