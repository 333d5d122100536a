#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// How far a head's output moves if this token alone is evicted.
class Caote : public Scorer {
 public:
  explicit Caote(const Arguments& arguments)
      : summed_(arguments.text("of") == "sum"),
        exact_(arguments.text("output") == "exact"),
        recent_(arguments.integer("recent")),
        reduce_(arguments.text("reduce")) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const ModelShape& shape = evidence.shape();
    const int tokens = live_slots(evidence);
    const at::Tensor values = rows(evidence.values(), tokens);
    check_finite(values, "value", evidence.moment().layer);
    const at::Tensor received =
        columns(summed_ ? evidence.attention_sum() : evidence.last_query(), tokens);
    const at::Tensor weight = received / received.sum(-1, /*keepdim=*/true);
    at::Tensor moved = at::empty({shape.query_heads, tokens}, weight.options());
    for (int query_head = 0; query_head < shape.query_heads; ++query_head) {
      const at::Tensor own = values[shape.kv_head_of(query_head)];
      const at::Tensor output = exact_ ? weight[query_head].matmul(own) : own.mean(0);
      const at::Tensor odds = weight[query_head] / (1 - weight[query_head]).clamp_min(1e-6);
      moved[query_head].copy_(odds * (own - output).norm(2, {-1}, /*keepdim=*/false));
    }
    const at::Tensor score = reduce_group(moved, shape.kv_heads, reduce_);
    return {score, score.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(tokens - recent_, tokens, Reason::recent);
    return protection;
  }

 private:
  bool summed_;
  bool exact_;
  int recent_;
  std::string reduce_;
};

}  // namespace

PieceEntry caote_entry() {
  PieceEntry entry;
  entry.info.name = "caote";
  entry.info.summary =
      "keeps the tokens whose eviction alone would move a head's output most: attention and value "
      "in closed form";
  entry.info.paper = "Goel et al. 2025, arXiv:2504.14051";
  entry.info.departures =
      "each query head by itself, then reduced over the group, which the paper leaves open; 1 - "
      "weight counts as at least 1e-6; the paper evicts in blocks of 128: caote | rows:block=128";
  entry.info.scope = "layer";
  entry.info.parameters = {
      choice_parameter("of", "last|sum",
                       "weights: the newest query's attention (TOVA's), or the sums over all "
                       "queries, made to add up to 1 (H2O's)"),
      choice_parameter(
          "output", "exact|mean",
          "what a value is compared with: the head's output, or the mean of the cached "
          "values (FastCAOTE)"),
      integer_parameter("recent", 0, "0..", "tokens", "more of the newest tokens stay"),
      reduce_parameter()};
  entry.info.terms = {{"output_change", "L2, of the value's unit"}};
  entry.info.combine = "output_change";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Caote>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
