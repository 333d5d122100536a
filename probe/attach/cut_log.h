#pragma once

#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/core/decision.h"

namespace kvscope::detail {

/// What another program's compression did to the cache, noticed pass by pass: tokens that hold no
/// slot any more are evicted. Their scores are not known.
class CutLog {
 public:
  /// held [kv_heads][tokens]: which of the tokens seen before a pass still hold a slot of a layer,
  /// where that changed. `step`: the step the cut followed, 0 = the prompt.
  void note(int layer, int step, const std::vector<std::vector<bool>>& held);
  bool empty() const { return events_.empty(); }
  /// The live decision of a run of `tokens` tokens, of the captured layers.
  Decision decision(const CaptureIndex& index, int tokens) const;

 private:
  struct LayerCut {
    int layer = 0;
    int event = 0;
    std::vector<std::vector<bool>> held;
  };
  LayerDecision of_layer(const CaptureIndex& index, int layer, int tokens) const;

  std::vector<DecisionEvent> events_;
  std::vector<LayerCut> cuts_;
};

}  // namespace kvscope::detail
