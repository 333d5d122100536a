#include <ATen/ops/arange.h>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Score = position: the sinks are protected, the newest of the rest stay.
class StreamingLlm : public Scorer {
 public:
  explicit StreamingLlm(int sinks) : sinks_(sinks) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const at::Tensor position = at::arange(tokens, at::kFloat)
                                    .unsqueeze(0)
                                    .expand({evidence.shape().kv_heads, tokens})
                                    .contiguous();
    return {position, position.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(0, sinks_, Reason::sink);
    return protection;
  }

  Reason kept_reason() const override { return Reason::recent; }

 private:
  int sinks_;
};

}  // namespace

PieceEntry streaming_llm_entry() {
  PieceEntry entry;
  entry.info.name = "streaming_llm";
  entry.info.summary = "keeps the first few tokens and the newest ones";
  entry.info.paper = "Xiao et al. 2023, arXiv:2309.17453";
  entry.info.departures =
      "one cut after prefill at original positions, as kvpress; the paper rolls at every step and "
      "rotates keys by their place in the cache";
  entry.info.scope = "model";
  entry.info.parameters = {
      integer_parameter("sinks", 4, "0..", "tokens", "more of the sequence's start stays")};
  entry.info.terms = {{"position", "tokens"}};
  entry.info.combine = "position";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<StreamingLlm>(arguments.integer("sinks"));
  };
  return entry;
}

}  // namespace kvscope::detail
