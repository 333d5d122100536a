#include "decide/describe.h"

#include <nlohmann/json.hpp>

namespace kvscope::detail {

BudgetScope scope_of(const ModelRun& run) {
  const ModelShape& shape = run.shape();
  return {run.tokens_seen(), shape.layers, shape.kv_heads,
          std::int64_t{2} * shape.head_dim * std::int64_t{sizeof(float)}};
}

void describe(Decision& decision, const ModelRun& run, const Method& method, const Budget& budget,
              const BudgetScope& scope) {
  decision.method = method.text();
  decision.preset = method.preset();
  decision.descriptor_json = method.descriptor_json();
  decision.keep = budget.text();
  decision.rounding = budget.rounding() == Budget::Rounding::reference ? "reference" : "ours";
  decision.budget_slots = budget.total_slots(scope);
  decision.by_method = method.by_method();
  decision.replayed = !run.live();
  decision.replay_exact = run.step() == 0;
  decision.capture_hash = run.capture_hash();
  decision.model_name = run.model_name();
  decision.query_heads = run.shape().query_heads;
  decision.kv_heads = scope.kv_heads;
  decision.head_dim = run.shape().head_dim;
  decision.tokens = scope.tokens;
  decision.cut_tokens = scope.tokens;
  decision.form = method.form();
}

void note_remarks(Decision& decision,
                  const std::vector<std::pair<std::string, std::int64_t>>& remarks) {
  nlohmann::ordered_json descriptor = nlohmann::ordered_json::parse(decision.descriptor_json);
  for (const auto& [name, count] : remarks) {
    descriptor["remarks"][name] = count;
  }
  decision.descriptor_json = descriptor.dump();
}

}  // namespace kvscope::detail
