#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kvscope/attach/attached_run.h"
#include "kvscope/capture/recorder.h"
#include "layer_reader.h"

namespace kvscope {

class AttachedRun::Impl {
 public:
  Impl(AttachRequest request, std::vector<at::Tensor> output_weights);

  void give_prompt(const FedTokens& prompt, int context_tokens);
  void name_method(const std::string& method);
  void begin_pass(const FedTokens& tokens);
  void attention(const AttentionCall& call);
  void hook(const std::string& name, int layer, const at::Tensor& tensor);
  void end_pass(const at::Tensor& logits);
  /// Runs `work` unless the capture has ended; what it throws ends the capture.
  void guard(const std::function<void()>& work);
  AttachedReport finish();
  AttachedReport stop(CaptureState state, const std::string& message);

  Status status = Status::running;
  std::string error;

 private:
  /// What waits until the rows of a pass of several tokens after the prompt become steps.
  struct HeldRow {
    std::vector<LayerRecord> layers;
    std::vector<std::pair<HookPoint, std::pair<int, at::Tensor>>> hooks;
  };
  void start(const FedTokens& tokens);
  void check_positions(const FedTokens& tokens) const;
  bool in_prompt() const { return seen_ < prompt_->prompt_tokens; }
  int rows() const { return static_cast<int>(pass_->id.size()); }
  /// Rows of this pass that are still planned for, of a pass after the prompt.
  int planned_rows() const { return std::clamp(request_.capture.new_tokens - steps_, 0, rows()); }
  void step_layer(const AttentionCall& call);
  void end_prompt(const at::Tensor& logits);
  void end_steps(const at::Tensor& logits);
  void check_layers() const;
  AttachedReport report() const;
  /// The file of what was evicted; empty if nothing was.
  std::string write_decision_file() const;
  at::Tensor weights_of(int layer) const;

  AttachRequest request_;
  std::vector<at::Tensor> output_weights_;
  std::map<int, at::Tensor> factors_;
  std::optional<TokenTable> prompt_;
  CaptureIndex index_;
  std::unique_ptr<Recorder> recorder_;
  std::optional<detail::LayerReader> reader_;
  std::optional<FedTokens> pass_;
  std::vector<bool> layer_seen_;  ///< in this pass
  std::vector<HeldRow> held_;     ///< of this pass
  std::vector<std::string> notes_;
  int seen_ = 0;    ///< tokens before this pass
  int steps_ = 0;   ///< recorded
  int beyond_ = 0;  ///< steps that were not planned for
};

}  // namespace kvscope
