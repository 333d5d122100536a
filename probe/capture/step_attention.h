#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "kvscope/capture/recorder.h"

namespace kvscope::detail {

/// What a decode step's query sees of one layer's cache.
struct StepAttention {
  at::Tensor masses;  ///< [query_heads, slots] of whole slots, float32 on the CPU, contiguous;
                      ///< undefined where nobody needs more than `top`
  std::shared_ptr<const TopProbabilities> top;  ///< of tokens, where there are no masses
  at::Tensor entropy;  ///< [query_heads] or [query_heads, 1] nats, as if a merged slot were as many
                       ///< equal tokens
  at::Tensor lse;      ///< likewise
  std::shared_ptr<const SlotTable> slots;  ///< null without masses: every token has its slot
};

/// Attention of decode steps, one layer after the other.
class StepAttentions {
 public:
  StepAttention of(const LayerRecord& record, const ModelShape& shape);

 private:
  StepAttention of_tokens(const LayerRecord& record, const ModelShape& shape);
  /// Of the newest step whose cache held every token and whose masses were wanted.
  std::shared_ptr<const SlotTable> full_;
};

}  // namespace kvscope::detail
