#include <ATen/TensorOperators.h>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Minus the cosine of each key to the head's mean unit key.
class KeyDiff : public Scorer {
 public:
  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const at::Tensor keys = rows(evidence.keys(Frame::post_rope), live_slots(evidence));
    const at::Tensor norm = keys.norm(2, {-1}, /*keepdim=*/true);
    const at::Tensor anchor = (keys / norm.clamp_min(1e-12)).mean(1, /*keepdim=*/true);
    const at::Tensor dot = keys.matmul(anchor.transpose(1, 2)).squeeze(-1);
    const at::Tensor cosine =
        dot / (norm.squeeze(-1).clamp_min(1e-8) * anchor.norm(2, {-1}).clamp_min(1e-8));
    return {-cosine, cosine.unsqueeze(0)};
  }
};

}  // namespace

PieceEntry keydiff_entry() {
  PieceEntry entry;
  entry.info.name = "keydiff";
  entry.info.summary =
      "keeps distinctive keys: those that point away from the head's mean direction";
  entry.info.paper = "Park et al. 2025, arXiv:2504.15364";
  entry.info.departures = "one cut after prefill, as kvpress; the paper cuts block by block";
  entry.info.scope = "head";
  entry.info.terms = {{"cosine", "to the mean unit key"}};
  entry.info.combine = "-cosine";
  entry.build = [](const Arguments&, Parts& parts) { parts.scorer = std::make_unique<KeyDiff>(); };
  return entry;
}

}  // namespace kvscope::detail
