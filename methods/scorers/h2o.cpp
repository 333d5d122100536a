#include <cmath>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Attention received, summed over all prompt queries; the newest tokens are protected.
class H2o : public Scorer {
 public:
  H2o(double recent, std::string reduce) : recent_(recent), reduce_(std::move(reduce)) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const at::Tensor sum = columns(evidence.attention_sum(), live_slots(evidence));
    const at::Tensor reduced = reduce_group(sum, evidence.shape().kv_heads, reduce_);
    return {reduced, reduced.unsqueeze(0)};
  }

  Protection protect(int tokens, int slots_per_head) const override {
    Protection protection(tokens);
    const int recent = static_cast<int>(std::floor(recent_ * slots_per_head + 1e-9));
    protection.add(tokens - recent, tokens, Reason::recent);
    return protection;
  }

 private:
  double recent_;
  std::string reduce_;
};

}  // namespace

PieceEntry h2o_entry() {
  PieceEntry entry;
  entry.info.name = "h2o";
  entry.info.summary = "keeps heavy hitters by accumulated attention, and the newest tokens";
  entry.info.paper = "Zhang et al. 2023, arXiv:2306.14048";
  entry.info.departures =
      "one cut after prefill from the sums over all prompt queries (the authors' real-drop code on "
      "the prompt), a group of query heads choosing as one; the paper's greedy form, which evicts "
      "at every row, is h2o | rows in a live run";
  entry.info.scope = "layer";
  entry.info.parameters = {
      choice_parameter("form", "prefill_sum",
                       "sums over all queries so far; the online form is h2o | rows"),
      real_parameter("recent", 0.5, "0..1", "of the slots",
                     "more of the budget goes to the newest tokens"),
      reduce_parameter()};
  entry.info.terms = {{"attention_sum", "queries"}};
  entry.info.combine = "attention_sum";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<H2o>(arguments.real("recent"), arguments.text("reduce"));
  };
  return entry;
}

}  // namespace kvscope::detail
