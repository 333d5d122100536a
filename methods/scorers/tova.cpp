#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// What the newest query attends to, averaged over all query heads of the layer.
class Tova : public Scorer {
 public:
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
    protection.add(tokens - 1, tokens, Reason::observation_window);
    return protection;
  }
};

}  // namespace

PieceEntry tova_entry() {
  PieceEntry entry;
  entry.info.name = "tova";
  entry.info.summary = "drops what the newest token ignores; all heads of a layer choose as one";
  entry.info.paper = "Oren et al. 2024, arXiv:2401.06104";
  entry.info.departures =
      "one cut after prefill with the newest token kept, as kvpress; the authors cut at every step";
  entry.info.scope = "layer";
  entry.info.terms = {{"last_query_attention", "probability"}};
  entry.info.combine = "last_query_attention";
  entry.build = [](const Arguments&, Parts& parts) { parts.scorer = std::make_unique<Tova>(); };
  return entry;
}

}  // namespace kvscope::detail
