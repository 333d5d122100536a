#pragma once

#include <span>
#include <vector>

#include "kvscope/kernels/ranked_value.h"

namespace kvscope {

/// The `count` largest numbers of pieces that follow one another, descending; equal ones: the lower
/// index first; NaN is never among them.
std::vector<RankedValue> largest(std::span<const ScaledValues> pieces, int count);

/// The `count` largest of `size` logits as natural log-probabilities, in the order of the logits as
/// above. Empty where a logit is NaN or +inf. Same bytes for any thread count.
std::vector<RankedValue> largest_log_probabilities(const float* logits, std::int64_t size,
                                                   int count);

}  // namespace kvscope
