#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// A number that the layer x head map can show.
struct HeadValue {
  const char* id;     ///< of State::head_value
  const char* title;  ///< with its unit
  bool cost;          ///< larger is worse
};
const std::vector<HeadValue>& head_values();

/// Values of one decision by layer and KV head.
struct HeadMap {
  int layers = 0;
  int kv_heads = 0;
  std::vector<double> values;       ///< [layers, kv_heads]; NaN = not captured
  std::vector<double> layer_value;  ///< [layers] sum of counts, mean of anything else
  double least = 0;                 ///< of the finite values
  double most = 0;
  double total = 0;     ///< sum of counts, mean of anything else
  std::string title;    ///< what is shown, with its unit
  std::string missing;  ///< why nothing is shown, or empty
  bool cost = false;    ///< larger is worse
  bool count = false;   ///< whole numbers that add up
  double at(int row, int kv_head) const {
    return values[static_cast<std::size_t>(row) * static_cast<std::size_t>(kv_heads) +
                  static_cast<std::size_t>(kv_head)];
  }
};

/// `state.head_value` of decision A (`jaccard` and `rank`: of A and B). Rank correlation is
/// Spearman's over the tokens that have a score in both, at most 4096 of them, evenly spaced.
HeadMap head_map(const Scene& scene, const State& state);

}  // namespace kvscope
