#include <utility>

#include "cadences/prompt.h"
#include "kvscope/evidence/model_run.h"
#include "registry/method_pieces.h"

namespace kvscope {
namespace {

/// One cut, when the prompt has been read.
class AfterPrefill final : public Compressor {
 public:
  AfterPrefill(ModelRun& run, const Method& method, const Budget& budget,
               const DecideOptions& options)
      : run_(run), method_(method), budget_(budget), options_(options) {}

  void prefill() override {
    detail::read_prompt(run_, {.statistics = true});
    decision_ = decide(run_, method_, budget_, options_);
    run_.apply(decision_);
  }

  Decision decision() const override { return decision_; }

  std::unique_ptr<Compressor> onto(ModelRun& fork) const override {
    auto copy = std::make_unique<AfterPrefill>(fork, method_, budget_, options_);
    copy->decision_ = decision_;
    return copy;
  }

 private:
  ModelRun& run_;
  const Method& method_;
  Budget budget_;
  DecideOptions options_;
  Decision decision_;
};

}  // namespace

namespace detail {

void read_prompt(ModelRun& run, const ForwardRequest& request) {
  const TokenTable& tokens = run.tokens();
  const int seen = run.tokens_seen();
  if (seen < tokens.prompt_tokens) {
    // A copy: the run may append to its table while it reads.
    const std::vector<std::int32_t> rest(tokens.id.begin() + seen,
                                         tokens.id.begin() + tokens.prompt_tokens);
    run.forward(rest, request);
  }
}

}  // namespace detail

std::unique_ptr<Compressor> start_compressor(ModelRun& run, const Method& method,
                                             const Budget& budget, const DecideOptions& options) {
  const detail::Parts& parts = method.pieces().parts;
  if (parts.cadence) {
    return parts.cadence->start(run, method, budget, options);
  }
  return std::make_unique<AfterPrefill>(run, method, budget, options);
}

Decision compress(ModelRun& run, const Method& method, const Budget& budget,
                  const DecideOptions& options) {
  const std::unique_ptr<Compressor> compressor = start_compressor(run, method, budget, options);
  compressor->prefill();
  return compressor->decision();
}

}  // namespace kvscope
