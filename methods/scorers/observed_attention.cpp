#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

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
    const at::Tensor witnesses = queries_that_saw(evidence, tokens).to(sum.device());
    const at::Tensor mean = reduce_group(sum / witnesses, shape.kv_heads, reduce_);
    return {mean, mean.unsqueeze(0)};
  }

 private:
  /// How many queries each slot's token was there for: [query_heads, tokens].
  static at::Tensor queries_that_saw(const LayerEvidence& evidence, int tokens) {
    const ModelShape& shape = evidence.shape();
    const SlotTable& slots = evidence.slots();
    at::Tensor count = at::empty({shape.kv_heads, tokens}, at::kFloat);
    float* cell = count.mutable_data_ptr<float>();
    for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      for (int slot = 0; slot < tokens; ++slot) {
        *cell++ = static_cast<float>(evidence.moment().tokens_seen -
                                     slots.token[slots.cell(kv_head, slot)]);
      }
    }
    if (const int window = shape.window_of(evidence.moment().layer); window > 0) {
      count = count.clamp_max(window);
    }
    return count.repeat_interleave(shape.group_size(), 0);
  }

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
