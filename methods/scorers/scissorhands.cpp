#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include <algorithm>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// How often a token received less than an even share of the newest queries' attention, negated.
class Scissorhands : public Scorer {
 public:
  explicit Scissorhands(const Arguments& arguments)
      : window_(arguments.integer("window")),
        recent_(arguments.integer("recent")),
        of_row_(arguments.text("share") == "row"),
        reduce_(arguments.text("reduce")) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const int window = std::min(window_, evidence.moment().tokens_seen);
    const at::Tensor rows = columns(evidence.attention(window), tokens);
    const at::TensorOptions options = rows.options();
    // Keys that row i sees on a cache whose newest `window` tokens hold the newest slots.
    const at::Tensor visible =
        at::arange(tokens - window + 1, tokens + 1, options).clamp_min(1).unsqueeze(1);
    const at::Tensor seen = at::arange(tokens, options) < visible;
    const at::Tensor threshold = of_row_ ? visible.reciprocal() : visible * 0 + 1.0 / tokens;
    const at::Tensor count = (rows < threshold).logical_and(seen).sum(1, false, at::kFloat);
    const at::Tensor checked = count + (rows.sum(1) * 0);  // NaN stays NaN
    const at::Tensor score = reduce_group(checked.neg(), evidence.shape().kv_heads, reduce_);
    return {score, score.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(tokens - recent_, tokens, Reason::recent);
    return protection;
  }

  int queries_needed(int prompt_tokens) const override { return std::min(window_, prompt_tokens); }

 private:
  int window_;
  int recent_;
  bool of_row_;
  std::string reduce_;
};

}  // namespace

PieceEntry scissorhands_entry() {
  PieceEntry entry;
  entry.info.name = "scissorhands";
  entry.info.summary =
      "drops tokens that the newest queries have ignored most often, given less than an even share";
  entry.info.paper = "Liu et al. 2023, arXiv:2305.17118";
  entry.info.departures =
      "the paper's rule, whose counts of the newest `recent` tokens are zero: here they are "
      "protected; a row counts a token only if it sees it; the group's counts are averaged, where "
      "the paper knows no groups; the paper drops half of the budget at a time: | decode with "
      "every= that many; uniform over layers, where the paper gives later ones more";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("window", 400, "1..", "queries", "more of the newest queries are counted"),
      integer_parameter("recent", 10, "0..", "tokens", "more of the newest tokens stay"),
      choice_parameter(
          "share", "row|cache",
          "what an even share divides by: the keys a row sees, or all that are cached"),
      reduce_parameter()};
  entry.info.terms = {{"ignored", "queries, negated"}};
  entry.info.combine = "ignored";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Scissorhands>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
