#include <ATen/TensorOperators.h>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

class Knorm : public Scorer {
 public:
  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const at::Tensor norm = columns(evidence.key_norm(), live_slots(evidence));
    return {-norm, norm.unsqueeze(0)};
  }
};

}  // namespace

PieceEntry knorm_entry() {
  PieceEntry entry;
  entry.info.name = "knorm";
  entry.info.summary = "keeps the keys of smallest L2 norm: small keys draw attention";
  entry.info.paper = "Devoto et al. 2024, arXiv:2406.11430";
  entry.info.departures =
      "every layer is compressed, as in kvpress; the paper leaves out the first two";
  entry.info.scope = "head";
  entry.info.terms = {{"key_norm", "L2"}};
  entry.info.combine = "-key_norm";
  entry.build = [](const Arguments&, Parts& parts) { parts.scorer = std::make_unique<Knorm>(); };
  return entry;
}

}  // namespace kvscope::detail
