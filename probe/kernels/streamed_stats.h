#pragma once

#include "attention_inputs.h"
#include "attention_targets.h"

namespace kvscope::detail {

/// Columns of a segment of streamed rows, a row at a time; a plane of one row's sums is written
/// where it lies.
void add_streamed(const ForwardInputs& in, const StreamedWeights& kept,
                  const ColumnTargets& targets, int segment);

/// The last row's largest probabilities and what its sinks get, from its weights as they lie.
void add_top(const ForwardInputs& in, const StreamedWeights& kept, const AttentionWanted& wanted,
             AttentionStats& stats);

}  // namespace kvscope::detail
