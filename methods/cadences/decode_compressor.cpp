#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cadences/decode.h"
#include "cadences/prompt.h"
#include "decide/check.h"
#include "decide/describe.h"
#include "decide/slots.h"
#include "kvscope/evidence/model_run.h"

namespace kvscope::detail {
namespace {

class DecodeCompressor final : public Compressor {
 public:
  DecodeCompressor(ModelRun& run, const Method& method, const Budget& budget,
                   const DecideOptions& decide, const DecodeOptions& options)
      : run_(&run),
        method_(&method),
        asked_(budget),
        budget_(in_slots(budget, run.shape(), run.tokens().prompt_tokens)),
        decide_(decide),
        options_(options) {
    check_method(method, budget, {run.shape(), run.model_hash(), run.tokens().prompt_tokens});
  }

  void prefill() override {
    if (options_.read_block > 0) {
      read_in_blocks();
      return;
    }
    read_prompt(*run_, {.statistics = true});
    if (options_.at_prompt_end && slots() > granted()) {
      cut();
    }
  }

  bool after_step() override {
    ++steps_;
    ++since_cut_;
    const DecodeState state{slots(), granted(), run_->tokens().prompt_tokens, run_->tokens_seen(),
                            steps_,  since_cut_};
    const bool due = options_.while_decoding && is_due(options_, state);
    if (due) {
      cut();
    }
    steps_ = steps_ >= options_.every ? 0 : steps_;
    return due;
  }

  Decision decision() const override {
    Decision whole;
    if (decided_) {
      whole = *decided_;
      whole.tokens = run_->tokens_seen();
      for (LayerDecision& layer : whole.layers) {
        layer = extended(layer, whole.tokens);
      }
      return whole;
    }
    describe(whole, *run_, *method_, asked_, scope_of(*run_));
    for (int layer = 0; layer < run_->shape().layers; ++layer) {
      whole.layers.push_back(LayerDecision::keep_all(layer, whole.kv_heads, whole.tokens));
    }
    whole.budget_slots = whole.granted_slots();
    return whole;
  }

  std::unique_ptr<Compressor> onto(ModelRun& fork) const override {
    auto copy = std::make_unique<DecodeCompressor>(*this);
    copy->run_ = &fork;
    return copy;
  }

 private:
  int granted() const { return granted_slots(budget_, run_->shape()); }

  /// Slots of a KV head: the same in every layer, since what cuts repeatedly cuts evenly.
  int slots() const { return run_->layer(0)->slots().slots; }

  void read_in_blocks() {
    const int block = options_.read_block;
    const int total = run_->tokens().prompt_tokens;
    // A copy: the run may append to its table while it reads.
    const std::vector<std::int32_t> prompt(run_->tokens().id.begin(),
                                           run_->tokens().id.begin() + total);
    int count = std::max(block, granted() / block * block);
    for (int first = 0; first < total; first += count, count = block) {
      count = std::min(count, total - first);
      run_->forward(std::span(prompt).subspan(static_cast<std::size_t>(first),
                                              static_cast<std::size_t>(count)),
                    {.statistics = true});
      if (slots() > granted()) {
        cut();
      }
    }
  }

  void cut() {
    DecideOptions options = decide_;
    options.before = decided_ ? &*decided_ : nullptr;
    Decision decision = decide(*run_, *method_, budget_, options);
    run_->apply(decision);
    decision.keep = asked_.text();
    decision.rounding = asked_.rounding() == Budget::Rounding::reference ? "reference" : "ours";
    decided_ = std::move(decision);
    since_cut_ = 0;
  }

  ModelRun* run_;
  const Method* method_;
  Budget asked_;
  Budget budget_;  ///< in slots or bytes
  DecideOptions decide_;
  DecodeOptions options_;
  std::optional<Decision> decided_;
  int steps_ = 0;      ///< decoded since the last interval began
  int since_cut_ = 0;  ///< decoded since the last cut
};

}  // namespace

std::unique_ptr<Compressor> start_decode(ModelRun& run, const Method& method, const Budget& budget,
                                         const DecideOptions& decide,
                                         const DecodeOptions& options) {
  return std::make_unique<DecodeCompressor>(run, method, budget, decide, options);
}

}  // namespace kvscope::detail
