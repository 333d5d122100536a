#include "kvscope/methods/pieces.h"

#include <algorithm>

namespace kvscope {

void Protection::add(int first, int last, Reason why) {
  for (int token = std::max(first, 0); token < std::min(last, tokens()); ++token) {
    if (!covers(token)) {
      reason[static_cast<std::size_t>(token)] = why;
      ++count;
    }
  }
}

}  // namespace kvscope
