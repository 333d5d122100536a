#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// Values of one decision by layer and KV head.
struct HeadMap {
  int layers = 0;
  int kv_heads = 0;
  std::vector<double> values;  ///< [layers, kv_heads]; NaN = not captured
  double least = 0;            ///< of the finite values
  double most = 0;
  std::string title;    ///< what is shown, with its unit
  std::string missing;  ///< why nothing is shown, or empty
  bool cost = false;    ///< larger is worse
  double at(int row, int kv_head) const {
    return values[static_cast<std::size_t>(row) * static_cast<std::size_t>(kv_heads) +
                  static_cast<std::size_t>(kv_head)];
  }
};

/// `state.head_value`: kept (slots held), error (output error, mean of the group), mass (retained
/// attention), jaccard (agreement of A and B).
HeadMap head_map(const Scene& scene, const State& state);

}  // namespace kvscope
