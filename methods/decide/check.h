#pragma once

#include "kvscope/core/budget.h"
#include "kvscope/core/shape.h"
#include "kvscope/methods/method.h"

namespace kvscope::detail {

/// A fraction as slots of a prompt of this length; other budgets as they are.
Budget in_slots(const Budget& budget, const ModelShape& shape, int prompt_tokens);

/// Slots the budget grants a KV head of a cache that is larger.
int granted_slots(const Budget& budget, const ModelShape& shape);

/// Throws Error{usage} if the method protects more slots than a KV head may get.
void check_protected(const Method& method, const Budget& budget, const BudgetScope& scope,
                     int protected_tokens);

}  // namespace kvscope::detail
