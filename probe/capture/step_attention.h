#pragma once

#include <ATen/core/Tensor.h>

#include "kvscope/capture/recorder.h"

namespace kvscope::detail {

/// What a decode step's query sees of one layer's cache.
struct StepAttention {
  at::Tensor masses;   ///< [query_heads, slots] of whole slots, float32 on the CPU, contiguous
  at::Tensor entropy;  ///< [query_heads] nats, as if a merged slot were as many equal tokens
  at::Tensor lse;      ///< [query_heads]
  SlotTable slots;
};
StepAttention step_attention(const LayerRecord& record, const ModelShape& shape);

}  // namespace kvscope::detail
