#pragma once

#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {

/// attention_stats on a CUDA device through libkvscope_cuda; arguments already checked.
/// Throws Error{unsupported} where the library or a device is missing, Error{failed} naming the
/// kernel and the sizes where a launch fails.
AttentionStats attention_stats_cuda(const at::Tensor& queries, const at::Tensor& keys,
                                    const at::Tensor& lse, const AttentionStatsOptions& options);

}  // namespace kvscope::detail
