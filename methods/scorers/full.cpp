#include <ATen/ops/zeros.h>

#include "allocators/allocators.h"
#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

class Full : public Scorer {
 public:
  LayerScores score(const LayerEvidence& evidence, bool) const override {
    return {at::zeros({evidence.shape().kv_heads, live_slots(evidence)}), {}};
  }
};

}  // namespace

PieceEntry full_entry() {
  PieceEntry entry;
  entry.info.name = "full";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary = "keeps every token, whatever the budget: what the others are compared with";
  entry.info.scope = "head";
  entry.closed = true;
  entry.build = [](const Arguments&, Parts& parts) {
    parts.scorer = std::make_unique<Full>();
    parts.allocator = make_everything();
  };
  return entry;
}

}  // namespace kvscope::detail
