#include "kvscope/scene/agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kvscope/core/error.h"
#include "kvscope/scene/moment.h"

namespace kvscope {
namespace {

constexpr double same_budget = 0.01;
constexpr double near_budget = 0.05;

bool holds_slot(Fate fate) {
  return fate == Fate::kept || fate == Fate::skipped;
}

void check_same_run(const Decision& a, const Decision& b) {
  bool same =
      a.tokens == b.tokens && a.kv_heads == b.kv_heads && a.layers.size() == b.layers.size();
  for (std::size_t row = 0; same && row < a.layers.size(); ++row) {
    same = a.layers[row].layer == b.layers[row].layer &&
           a.layers[row].kv_heads == b.layers[row].kv_heads &&
           a.layers[row].tokens == b.layers[row].tokens;
  }
  KVSCOPE_CHECK(same, ErrorCode::usage, "the two decisions cover different layers, heads or tokens",
                fmt::format("{} ({} layers, {} KV heads, {} tokens) against {} ({}, {}, {})",
                            a.method, a.layers.size(), a.kv_heads, a.tokens, b.method,
                            b.layers.size(), b.kv_heads, b.tokens),
                "decide both on the same capture");
  KVSCOPE_CHECK(a.capture_hash == b.capture_hash, ErrorCode::usage,
                "the two decisions come from different captures", a.method + ", " + b.method,
                "decide both on the same capture");
}

SetOverlap head_overlap(const LayerDecision& a, const LayerDecision& b, int kv_head) {
  SetOverlap overlap;
  for (int token = 0; token < a.tokens; ++token) {
    const std::size_t cell = a.cell(kv_head, token);
    const bool in_a = holds_slot(a.fate[cell]);
    const bool in_b = holds_slot(b.fate[cell]);
    overlap.both += in_a && in_b;
    overlap.only_a += in_a && !in_b;
    overlap.only_b += !in_a && in_b;
    overlap.neither += !in_a && !in_b;
  }
  return overlap;
}

/// Mean memory in units of a whole slot of four-byte numbers.
double mean_memory(const Decision& decision) {
  const SlotBytes slot = slot_bytes(decision.form, std::max(1, decision.head_dim), 4);
  return cache_use(decision, slot).mean_bytes / static_cast<double>(slot.whole);
}

}  // namespace

double SetOverlap::jaccard() const {
  const std::int64_t either = both + only_a + only_b;
  return either == 0 ? 1.0 : static_cast<double>(both) / static_cast<double>(either);
}

SetOverlap& SetOverlap::operator+=(const SetOverlap& other) {
  both += other.both;
  only_a += other.only_a;
  only_b += other.only_b;
  neither += other.neither;
  return *this;
}

std::string Agreement::remark() const {
  switch (budgets) {
    case BudgetMatch::same:
      return "equal memory";
    case BudgetMatch::near:
      return fmt::format("memory differs by {:.1f} %", 100 * slot_difference);
    case BudgetMatch::different:
      break;
  }
  return fmt::format("not comparable: memory differs by {:.1f} %", 100 * slot_difference);
}

Agreement agreement(const Decision& a, const Decision& b) {
  check_same_run(a, b);
  Agreement result;
  result.kv_heads = a.kv_heads;
  const double memory_a = mean_memory(a);
  const double memory_b = mean_memory(b);
  const double larger = std::max({memory_a, memory_b, 1.0});
  result.slot_difference = std::abs(memory_a - memory_b) / larger;
  result.budgets = result.slot_difference <= same_budget   ? BudgetMatch::same
                   : result.slot_difference <= near_budget ? BudgetMatch::near
                                                           : BudgetMatch::different;
  double worst = 2;
  for (std::size_t row = 0; row < a.layers.size(); ++row) {
    SetOverlap sum;
    for (int kv_head = 0; kv_head < a.kv_heads; ++kv_head) {
      const SetOverlap overlap = head_overlap(a.layers[row], b.layers[row], kv_head);
      if (overlap.jaccard() < worst) {
        worst = overlap.jaccard();
        result.worst_layer_row = static_cast<int>(row);
        result.worst_kv_head = kv_head;
      }
      result.head.push_back(overlap);
      sum += overlap;
    }
    result.layer.push_back(sum);
    result.total += sum;
  }
  return result;
}

}  // namespace kvscope
