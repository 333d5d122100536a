#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Attention of the newest queries at a scale whose expected entropy is that of the budget, times
/// how large the values around a token are.
class AhaKv : public Scorer {
 public:
  explicit AhaKv(const Arguments& arguments)
      : window_(arguments.integer("window")),
        pool_(arguments.integer("pool")),
        recent_(arguments.integer("recent")),
        reduce_(arguments.text("reduce")) {}

  LayerScores score(const LayerEvidence& evidence, bool terms) const override {
    return score_within(evidence, {}, terms);
  }

  bool reads_budget() const override { return true; }
  LayerScores score_within(const LayerEvidence& evidence, const BudgetShare& share,
                           bool terms) const override {
    const int tokens = live_slots(evidence);
    const at::Tensor values = rows(evidence.values(), tokens);
    check_finite(values, "value", evidence.moment().layer);
    const at::Tensor attention =
        reduce_group(received(evidence, tokens, share.keep), evidence.shape().kv_heads, reduce_);
    const at::Tensor energy = pool_tokens(values.square().sum(-1), pool_, "avg");
    const at::Tensor prior =
        energy / energy.amax(-1, /*keepdim=*/true).clamp_min(std::numeric_limits<float>::min());
    LayerScores result{attention * prior, {}};
    if (terms) {
      result.terms = at::stack({attention, prior});
    }
    return result;
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(tokens - recent_, tokens, Reason::recent);
    return protection;
  }

  int queries_needed(int prompt_tokens) const override { return std::min(window_, prompt_tokens); }

 private:
  /// Sums over the newest queries: [query_heads, tokens].
  at::Tensor received(const LayerEvidence& evidence, int tokens, double keep) const {
    const ModelShape& shape = evidence.shape();
    const int window = std::min(window_, evidence.moment().tokens_seen);
    const at::Tensor queries =
        evidence.queries(window).unflatten(0, {shape.kv_heads, shape.group_size()});
    const at::Tensor keys = rows(evidence.keys(Frame::post_rope), tokens);
    const double scale = std::sqrt(2 * std::log(1 / keep) / shape.head_dim);
    const at::Tensor logits =
        (queries.matmul(keys.unsqueeze(1).transpose(2, 3)) * scale).flatten(0, 1);
    const at::TensorOptions options = logits.options();
    const at::Tensor newest = at::arange(tokens - window, tokens, options).unsqueeze(1);
    const at::Tensor later = at::arange(tokens, options) > newest;
    return at::softmax(logits.masked_fill(later, -std::numeric_limits<float>::infinity()), -1)
        .sum(1);
  }

  int window_;
  int pool_;
  int recent_;
  std::string reduce_;
};

}  // namespace

PieceEntry ahakv_entry() {
  PieceEntry entry;
  entry.info.name = "ahakv";
  entry.info.summary =
      "attention of the newest queries, made as even as the budget is large, times the size of the "
      "values around a token";
  entry.info.paper = "Gu et al. 2025, arXiv:2506.03762";
  entry.info.departures =
      "the paper has no public code, and leaves the pool's size and the reduction of a group open: "
      "pool=, reduce=; a budget of everything makes all attention even; a sliding window or "
      "softcap "
      "of the model is not applied";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("window", 32, "1..", "queries", "more of the newest queries vote"),
      integer_parameter("pool", 5, "1.., odd", "tokens", "a value's size spreads over more tokens"),
      integer_parameter("recent", 0, "0..", "tokens", "more of the newest tokens stay"),
      reduce_parameter()};
  entry.info.terms = {{"attention_sum", "queries"}, {"value_prior", "of the head's largest"}};
  entry.info.combine = "attention_sum * value_prior";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<AhaKv>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
