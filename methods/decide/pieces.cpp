#include "kvscope/methods/pieces.h"

#include <algorithm>
#include <cstdint>

namespace kvscope {

void Protection::add(int first, int last, Reason why) {
  for (int token = std::max(first, 0); token < std::min(last, tokens()); ++token) {
    if (!covers(token)) {
      reason[static_cast<std::size_t>(token)] = why;
      ++count;
    }
  }
}

int BudgetCount::of(int things, int tokens) const {
  if (budget->unit() == Budget::Unit::fraction) {
    return budget->slots_per_head({things, 1, 1, 1});
  }
  return static_cast<int>(std::int64_t{things} * slots / std::max(tokens, 1));
}

}  // namespace kvscope
