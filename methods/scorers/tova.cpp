#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// What the newest query attends to, averaged over all query heads of the layer.
class Tova : public Scorer {
 public:
  explicit Tova(bool newest_stays) : newest_stays_(newest_stays) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const at::Tensor mean = columns(evidence.last_query(), tokens)
                                .mean(0, /*keepdim=*/true)
                                .expand({evidence.shape().kv_heads, tokens})
                                .contiguous();
    return {mean, mean.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    if (newest_stays_) {
      protection.add(tokens - 1, tokens, Reason::observation_window);
    }
    return protection;
  }

 private:
  bool newest_stays_;
};

}  // namespace

PieceEntry tova_entry() {
  PieceEntry entry;
  entry.info.name = "tova";
  entry.info.summary = "drops what the newest token ignores; all heads of a layer choose as one";
  entry.info.paper = "Oren et al. 2024, arXiv:2401.06104";
  entry.info.departures =
      "one cut after prefill with the newest token kept, as kvpress; the authors cut at every step "
      "and let the newest token's own weight decide: tova:newest=scored | rows, in a live run";
  entry.info.scope = "layer";
  entry.info.terms = {{"last_query_attention", "probability"}};
  entry.info.combine = "last_query_attention";
  entry.info.parameters = {choice_parameter(
      "newest", "stays|scored", "whether the newest token always stays, or competes by its score")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Tova>(arguments.text("newest") == "stays");
  };
  return entry;
}

}  // namespace kvscope::detail
