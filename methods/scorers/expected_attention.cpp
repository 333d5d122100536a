#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>

#include "registry/entry.h"
#include "scorers/reduce.h"
#include "scorers/rotation.h"

namespace kvscope::detail {
namespace {

/// Attention that queries to come would pay, if they were normal with the mean and covariance of
/// those so far, their rotation averaged over the positions ahead.
class ExpectedAttention : public Scorer {
 public:
  explicit ExpectedAttention(const Arguments& arguments)
      : future_(arguments.integer("future")),
        sinks_(arguments.integer("sinks")),
        covariance_(arguments.boolean("covariance")),
        value_(arguments.boolean("value")),
        epsilon_(arguments.real("epsilon")) {}

  LayerScores score(const LayerEvidence& evidence, bool terms) const override {
    const int tokens = live_slots(evidence);
    const int candidates = tokens - sinks_;
    if (candidates <= 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, none.unsqueeze(0).expand({2, none.size(0), tokens})};
    }
    const at::Tensor values = evidence.values().narrow(1, sinks_, candidates);
    check_finite(values, "value", evidence.moment().layer);
    const at::Tensor attention = reduce_group(at::softmax(logits(evidence, candidates), -1),
                                              evidence.shape().kv_heads, "mean") +
                                 (value_ ? epsilon_ : 0.0);
    const at::Tensor norm =
        value_ ? values.norm(2, {-1}, /*keepdim=*/false) : at::ones_like(attention);
    LayerScores result{widen(attention * norm, tokens, sinks_), {}};
    if (terms) {
      result.terms = at::stack({widen(attention, tokens, sinks_), widen(norm, tokens, sinks_)});
    }
    return result;
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(0, sinks_, Reason::sink);
    return protection;
  }

  int queries_needed(int prompt_tokens) const override { return prompt_tokens; }

 private:
  /// Log of the expected exponential, but for a constant: [query_heads, candidates].
  at::Tensor logits(const LayerEvidence& evidence, int candidates) const {
    const ModelShape& shape = evidence.shape();
    const at::Tensor all = queries_pre_rope(evidence);
    const at::Tensor queries = all.narrow(1, sinks_, all.size(1) - sinks_);
    const at::Tensor keys = evidence.keys(Frame::post_rope).narrow(1, sinks_, candidates);
    check_finite(keys, "key", evidence.moment().layer);
    const at::Tensor mean = queries.mean(1);
    const at::Tensor ahead = turned_to_future(mean, evidence, future_);
    at::Tensor result = at::empty({shape.query_heads, candidates}, keys.options());
    for (int query_head = 0; query_head < shape.query_heads; ++query_head) {
      const at::Tensor rows = keys[shape.kv_head_of(query_head)];
      at::Tensor logit = rows.matmul(ahead[query_head]) * shape.attention_scale;
      if (covariance_) {
        const at::Tensor centred = queries[query_head] - mean[query_head];
        const at::Tensor spread =
            centred.t().matmul(centred) / static_cast<double>(centred.size(0));
        const at::Tensor half = turned_to_future(spread, evidence, future_);
        const at::Tensor both = turned_to_future(half.t(), evidence, future_);
        logit = logit + (rows.matmul(both) * rows).sum(-1) *
                            (shape.attention_scale * shape.attention_scale / 2);
      }
      result[query_head].copy_(logit);
    }
    return result;
  }

  int future_;
  int sinks_;
  bool covariance_;
  bool value_;
  double epsilon_;
};

}  // namespace

PieceEntry expected_attention_entry() {
  PieceEntry entry;
  entry.info.name = "expected_attention";
  entry.info.summary =
      "keeps what queries to come are expected to attend to, from the mean and covariance of all "
      "queries so far, times the value's norm";
  entry.info.paper = "Devoto et al. 2025, arXiv:2510.00636; kvpress ExpectedAttentionPress";
  entry.info.departures =
      "sinks are protected, where kvpress pads their scores; while decoding, the future begins "
      "behind the newest token, where kvpress counts from the cache's length; statistics are the "
      "run's own, not a stored table; a sliding window or softcap of the model is not applied";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("future", 512, "1..", "positions",
                        "rotations are averaged farther into the future"),
      integer_parameter("sinks", 4, "0..", "tokens",
                        "more of the sequence's start stays, and is left out of the statistics"),
      boolean_parameter("covariance", true, "false: the mean query alone"),
      boolean_parameter("value", true, "times the norm of the value; false: attention alone"),
      real_parameter("epsilon", 0, "0..", "probability",
                     "the value's norm weighs more beside small attention")};
  entry.info.terms = {{"expected_attention", "probability, plus epsilon"}, {"value_norm", "L2"}};
  entry.info.combine = "expected_attention * value_norm";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<ExpectedAttention>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
