#pragma once

#include "attention_backward.h"

namespace kvscope::detail {

// Attention of the newest rows over a uniform cache in plain LibTorch operators, in the number type
// of its tensors; visibility as in `attention_backward`.

/// Fills `lse` and `output`; memory stays at block x slots.
void attend_plain(AttentionTrace& trace);

/// Probabilities of the slots: [query_heads, rows, slots], rows sum to 1. Needs `lse`.
at::Tensor attention_probabilities(const AttentionTrace& trace);

}  // namespace kvscope::detail
