#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/core/decision.h"

namespace kvscope {

/// Two sets of cells (KV head, token) that hold a slot.
struct SetOverlap {
  std::int64_t both = 0;
  std::int64_t only_a = 0;
  std::int64_t only_b = 0;
  std::int64_t neither = 0;

  /// |A and B| / |A or B|; 1 when both are empty.
  double jaccard() const;
  SetOverlap& operator+=(const SetOverlap& other);
};

/// How far two decisions may be compared: mean caches within 1 %, within 5 %, or further apart.
enum class BudgetMatch { same, near, different };

/// Agreement of two decisions on which tokens hold a slot.
struct Agreement {
  BudgetMatch budgets = BudgetMatch::same;
  double slot_difference = 0;  ///< of the mean memory held from the first cut on, over the larger
  int kv_heads = 0;
  SetOverlap total;
  std::vector<SetOverlap> layer;  ///< [layers]
  std::vector<SetOverlap> head;   ///< [layers, kv_heads]
  int worst_layer_row = 0;        ///< row and KV head of least Jaccard; the first of equals
  int worst_kv_head = 0;

  /// Mean caches within 5 %.
  bool comparable() const { return budgets != BudgetMatch::different; }
  /// "equal memory", "memory differs by 2.3 %", "not comparable: memory differs by 40.0 %".
  std::string remark() const;
  const SetOverlap& at(int layer_row, int kv_head) const {
    return head[static_cast<std::size_t>(layer_row) * static_cast<std::size_t>(kv_heads) +
                static_cast<std::size_t>(kv_head)];
  }
};

/// Compares cells that hold a slot (K, P, T, S). Throws Error{usage} unless both decisions cover
/// the same capture, layers, KV heads and tokens.
Agreement agreement(const Decision& a, const Decision& b);

}  // namespace kvscope
