#pragma once

#include <vector>

namespace kvscope {

/// A rectangle of one query head's attention map.
struct AttentionTile {
  int layer = 0;
  int query_head = 0;
  int first_query = 0;
  int queries = 0;
  int first_key = 0;
  int keys = 0;
  std::vector<float> probability;  ///< [queries, keys]; 0 where the mask hides the key
};

}  // namespace kvscope
