#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Attention received, averaged over the queries that can see the token.
class ObservedAttention : public Scorer {
 public:
  explicit ObservedAttention(std::string reduce) : reduce_(std::move(reduce)) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const ModelShape& shape = evidence.shape();
    const at::Tensor sum = columns(evidence.attention_sum(), tokens);
    at::Tensor witnesses = at::arange(tokens, 0, -1, sum.options());
    if (const int window = shape.window_of(evidence.moment().layer); window > 0) {
      witnesses = witnesses.clamp_max(window);
    }
    const at::Tensor mean = reduce_group(sum / witnesses, shape.kv_heads, reduce_);
    return {mean, mean.unsqueeze(0)};
  }

 private:
  std::string reduce_;
};

}  // namespace

PieceEntry observed_attention_entry() {
  PieceEntry entry;
  entry.info.name = "observed_attention";
  entry.info.summary =
      "keeps the tokens of largest mean attention over all queries that can see them";
  entry.info.paper = "kvpress ObservedAttentionPress, after Zhang et al. 2023, arXiv:2306.14048";
  entry.info.departures =
      "a mean, not H2O's sum: early tokens have no advantage, nothing is protected";
  entry.info.scope = "layer";
  entry.info.parameters = {reduce_parameter()};
  entry.info.terms = {{"attention_mean", "probability"}};
  entry.info.combine = "attention_mean";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<ObservedAttention>(arguments.text("reduce"));
  };
  return entry;
}

}  // namespace kvscope::detail
