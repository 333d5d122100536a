#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kvscope/core/budget.h"
#include "kvscope/core/decision.h"
#include "kvscope/evidence/model_run.h"
#include "kvscope/methods/method.h"

namespace kvscope::detail {

/// The run as a budget sees it: the tokens it has read, float32 slots.
BudgetScope scope_of(const ModelRun& run);

/// Who decided, on what, with how much: everything of a decision but layers, events and terms.
void describe(Decision& decision, const ModelRun& run, const Method& method, const Budget& budget,
              const BudgetScope& scope);

/// Adds counted remarks to the descriptor, under "remarks".
void note_remarks(Decision& decision,
                  const std::vector<std::pair<std::string, std::int64_t>>& remarks);

}  // namespace kvscope::detail
