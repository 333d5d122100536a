#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve.h>

#include "registry/entry.h"
#include "scorers/reduce.h"
#include "scorers/rotation.h"

namespace kvscope::detail {
namespace {

/// How much of the values' span a token accounts for, weighed by how near its key lies to the mean
/// of the queries to come: its share in a log-determinant.
class Cap : public Scorer {
 public:
  explicit Cap(const Arguments& arguments)
      : tau_(arguments.real("tau")),
        future_(arguments.integer("future")),
        sinks_(arguments.integer("sinks")),
        epsilon_(arguments.real("epsilon")) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const int candidates = tokens - sinks_;
    if (candidates <= 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, none.unsqueeze(0)};
    }
    const ModelShape& shape = evidence.shape();
    const at::Tensor keys = evidence.keys(Frame::post_rope).narrow(1, sinks_, candidates);
    const at::Tensor values = evidence.values().narrow(1, sinks_, candidates);
    check_finite(keys, "key", evidence.moment().layer);
    check_finite(values, "value", evidence.moment().layer);
    const at::Tensor weight = weights(evidence, keys);
    at::Tensor scores = at::empty({shape.query_heads, candidates}, keys.options());
    for (int query_head = 0; query_head < shape.query_heads; ++query_head) {
      const at::Tensor rows = values[shape.kv_head_of(query_head)];
      const at::Tensor own = weight[query_head];
      const at::Tensor covered = at::eye(rows.size(1), rows.options()) +
                                 rows.t().matmul(rows * (own + epsilon_).unsqueeze(1));
      const at::Tensor inverse = at::linalg_solve(covered, rows.t());  // [head_dim, candidates]
      scores[query_head].copy_(own * (rows.t() * inverse).sum(0));
    }
    const at::Tensor score = widen(reduce_group(scores, shape.kv_heads, "mean"), tokens, sinks_);
    return {score, score.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(0, sinks_, Reason::sink);
    return protection;
  }

  int queries_needed(int prompt_tokens) const override { return prompt_tokens; }

 private:
  /// exp of tau times the cosine to the anchor, 1 for the nearest key: [query_heads, candidates].
  at::Tensor weights(const LayerEvidence& evidence, const at::Tensor& keys) const {
    const ModelShape& shape = evidence.shape();
    const at::Tensor all = queries_pre_rope(evidence);
    const at::Tensor anchor =
        turned_to_future(all.narrow(1, sinks_, all.size(1) - sinks_).mean(1), evidence, future_);
    const at::Tensor grouped = anchor.unflatten(0, {shape.kv_heads, shape.group_size()});
    const at::Tensor lengths = grouped.norm(2, {-1}, /*keepdim=*/true).clamp_min(least_norm) *
                               keys.norm(2, {-1}, false).clamp_min(least_norm).unsqueeze(1);
    const at::Tensor cosine =
        (grouped.matmul(keys.transpose(1, 2)) / lengths).clamp(-1, 1).flatten(0, 1);
    return ((cosine - cosine.amax(-1, /*keepdim=*/true)) * tau_).exp();
  }

  static constexpr double least_norm = 1e-12;
  double tau_;
  int future_;
  int sinks_;
  double epsilon_;
};

}  // namespace

PieceEntry cap_entry() {
  PieceEntry entry;
  entry.info.name = "cap";
  entry.info.summary =
      "keeps values that span most, a log-determinant, weighed by how near their keys lie to the "
      "mean of the queries to come";
  entry.info.paper = "CapKV, arXiv:2604.25975; kvpress CapPress";
  entry.info.departures =
      "kvpress's form: cosines, and a rotation averaged over the future; the paper takes raw "
      "products. Sinks are protected, where kvpress pads their scores; while decoding, the future "
      "begins behind the newest token";
  entry.info.scope = "head";
  entry.info.parameters = {
      real_parameter("tau", 5, "0..", "", "keys near the mean query weigh more"),
      integer_parameter("future", 512, "1..", "positions",
                        "rotations are averaged farther into the future"),
      integer_parameter("sinks", 4, "0..", "tokens",
                        "more of the sequence's start stays, and is left out of the statistics"),
      real_parameter("epsilon", 1e-6, "0..", "of the weight",
                     "tokens of no weight still span something")};
  entry.info.terms = {{"capacity_share", "of a log-determinant"}};
  entry.info.combine = "capacity_share";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Cap>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
