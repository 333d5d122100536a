#pragma once

#include <vector>

#include "kvscope/core/budget.h"
#include "kvscope/methods/pieces.h"
#include "registry/entry.h"

namespace kvscope::detail {

/// One layer on its way from scores to fates.
struct LayerWork {
  int layer = 0;
  int kv_heads = 0;
  const std::vector<float>& scores;  ///< [kv_heads, tokens]
  const Protection& protection;
  const int* slots = nullptr;       ///< [kv_heads]
  const int* floor_only = nullptr;  ///< [kv_heads]
  int guaranteed = -1;              ///< Allocation::guaranteed
  at::Tensor rows{};                ///< [kv_heads, tokens, head_dim] for the selector, or undefined
  BudgetCount budget{};
};

/// What the selector of these pieces reads of one layer, on the CPU; undefined if nothing.
at::Tensor selector_rows(const Parts& parts, const LayerEvidence& evidence);

/// Throws Error{failed} naming layer and KV head if an unprotected token's score is NaN.
void check_scores(const LayerWork& work, const std::string& method);

/// Fates, reasons, cuts and granted slots of one layer, heads in parallel; nothing merged yet.
LayerDecision select_layer(const LayerWork& work, const Parts& parts, bool keep_scores);

}  // namespace kvscope::detail
