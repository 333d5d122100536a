#pragma once

#include "kvscope/kernels/attention_stats.h"
#include "tile/tasks.h"

namespace kvscope::detail {

/// How many of `rows` queries see at least one of `tokens` keys: what column sums must add up to.
std::int64_t rows_that_see(std::int64_t rows, std::int64_t tokens,
                           const AttentionStatsOptions& options);

/// attention_stats on the CPU with the given inner loops; arguments already checked.
AttentionStats attention_stats_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& lse, const AttentionStatsOptions& options,
                                   const tile::Functions& functions);

/// attention_with_lse on the CPU likewise; `values` may be undefined (LSE alone).
AttentionResult attention_with_lse_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                       const at::Tensor& values, const at::Tensor& multiplicity,
                                       const at::Tensor& length, const AttentionOptions& options,
                                       const tile::Functions& functions);

/// attention_with_stats on the CPU likewise.
AttentionPass attention_with_stats_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                       const at::Tensor& values, const at::Tensor& multiplicity,
                                       const at::Tensor& length,
                                       const AttentionStatsOptions& options,
                                       const tile::Functions& functions);

/// attention_with_lse in LibTorch operators on any device, a block of queries at a time.
AttentionResult attention_with_lse_plain(const at::Tensor& queries, const at::Tensor& keys,
                                         const at::Tensor& values, const at::Tensor& multiplicity,
                                         const at::Tensor& length, const AttentionOptions& options);

}  // namespace kvscope::detail
