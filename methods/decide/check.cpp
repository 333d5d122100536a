#include "decide/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kvscope/core/error.h"
#include "registry/method_pieces.h"

namespace kvscope {
namespace detail {

namespace {

/// A budget's scope in a model whose every KV head holds `slots`, float32.
BudgetScope budget_scope(const ModelShape& shape, int slots) {
  return {slots, shape.layers, shape.kv_heads,
          std::int64_t{2} * shape.head_dim * std::int64_t{sizeof(float)}};
}

}  // namespace

Budget in_slots(const Budget& budget, const ModelShape& shape, int prompt_tokens) {
  return budget.unit() == Budget::Unit::fraction
             ? Budget::of_slots(
                   std::max(1, budget.slots_per_head(budget_scope(shape, prompt_tokens))))
             : budget;
}

int granted_slots(const Budget& budget, const ModelShape& shape) {
  return budget.slots_per_head(budget_scope(shape, std::numeric_limits<int>::max()));
}

void check_protected(const Method& method, const Budget& budget, const BudgetScope& scope,
                     int protected_tokens) {
  if (!method.pieces().parts.selector->fills_grant()) {
    return;
  }
  const int least =
      method.pieces().parts.allocator->smallest_grant(budget, scope, protected_tokens);
  KVSCOPE_CHECK(
      protected_tokens <= least, ErrorCode::usage,
      fmt::format("method '{}' protects {} tokens, but budget {} leaves a KV head {} slots of {} "
                  "tokens",
                  method.text(), protected_tokens, budget.text(), least, scope.tokens),
      "--keep",
      fmt::format("keep at least {} slots, or protect fewer tokens (kvscope methods {})",
                  protected_tokens, method.preset()));
}

}  // namespace detail

int queries_needed(const Method& method, int prompt_tokens) {
  const detail::Parts& parts = method.pieces().parts;
  return std::max(parts.scorer ? parts.scorer->queries_needed(prompt_tokens) : 0,
                  parts.allocator->queries_needed(prompt_tokens));
}

void check_method(const Method& method, const Budget& budget, const RunPlan& plan) {
  const detail::Parts& parts = method.pieces().parts;
  if (!parts.scorer) {
    parts.cadence->check(method, budget, plan);
    return;
  }
  parts.scorer->check(plan);
  const int slots =
      detail::granted_slots(detail::in_slots(budget, plan.shape, plan.prompt_tokens), plan.shape);
  const int protected_tokens =
      parts.scorer->protect_in_run({plan.prompt_tokens, plan.prompt_tokens, slots}).count;
  if (!parts.cadence) {
    detail::check_protected(method, budget, detail::budget_scope(plan.shape, plan.prompt_tokens),
                            protected_tokens);
    return;
  }
  if (!parts.cadence->decides_once()) {
    return;  // the cadence checks for itself
  }
  KVSCOPE_CHECK(parts.allocator->even() && parts.selector->fills_grant(), ErrorCode::unsupported,
                fmt::format("method '{}' gives heads different sizes, and cuts them repeatedly",
                            method.text()),
                "method text", "use the allocator 'uniform' and a selector that fills the budget");
  KVSCOPE_CHECK(
      !parts.scorer->shares_choice() || parts.selector->reads() == Rows::none,
      ErrorCode::unsupported,
      fmt::format("method '{}' lets layers share one choice, but its selector looks at each "
                  "layer's own vectors",
                  method.text()),
      "method text", "use mode=per_layer_perhead, or the selector 'top_k'");
  KVSCOPE_CHECK(
      protected_tokens < slots, ErrorCode::usage,
      fmt::format("method '{}' protects {} of {} prompt tokens, but budget {} leaves a KV head {} "
                  "slots: none for new tokens",
                  method.text(), protected_tokens, plan.prompt_tokens, budget.text(), slots),
      "--keep",
      fmt::format("keep more than {} slots, or protect fewer tokens (kvscope methods {})",
                  protected_tokens, method.preset()));
}

}  // namespace kvscope
