#pragma once

#include <vector>

#include "kvscope/core/decision.h"
#include "kvscope/evidence/layer_evidence.h"

namespace kvscope::detail {

/// Each evicted token of one KV head with the kept token whose key points most nearly the same way.
struct NearestKept {
  std::vector<int> lost;          ///< evicted tokens, ascending
  std::vector<int> target;        ///< [lost] kept token; equal cosines: the lower token
  std::vector<float> similarity;  ///< [lost] cosine of the keys
};

/// Throws Error{failed} naming the first live token whose key or value is not finite.
void check_finite(const LayerEvidence& evidence);

/// Cosines in float32 with norms clamped at 1e-6. Empty when nothing is evicted or nothing is kept.
/// Cost: evicted * kept * head_dim.
NearestKept nearest_kept(const LayerEvidence& evidence, const LayerDecision& decision, int kv_head);

/// Marks `source` as merged into `target`.
void fold(LayerDecision& decision, int kv_head, int source, int target, float key_weight,
          float value_weight, float count);

/// Marks `source` as evicted because the merger would not take it.
void decline(LayerDecision& decision, int kv_head, int source);

/// Orders edges as decisions store them.
void sort_edges(LayerDecision& decision);

}  // namespace kvscope::detail
