#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kvscope/capture/recorder.h"

namespace kvscope::detail {

/// Keeps the key of every token of a run, whatever its cache loses: what a step's query would have
/// given to the tokens without a slot, had their keys stayed. Takes the memory of the full cache's
/// keys in float32.
class LostMass {
 public:
  explicit LostMass(const CaptureIndex& index);

  /// keys [kv_heads, prompt_tokens, head_dim] of a captured layer.
  void add_prompt(int row, const at::Tensor& keys);
  /// Every step, in turn: [query_heads], the share of exp(s_j) of tokens without a slot among those
  /// and the slots. 0 on a cache that lost nothing; NaN where slots do not stand at their tokens'
  /// positions, since no query is then comparable with the lost keys.
  at::Tensor add_step(int row, const LayerRecord& record);

 private:
  const CaptureIndex& index_;
  std::vector<at::Tensor> keys_;  ///< of each captured layer: [kv_heads, planned tokens, head_dim]
};

}  // namespace kvscope::detail
