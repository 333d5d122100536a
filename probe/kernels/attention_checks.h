#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {

/// Throws Error{usage} naming `function` unless queries [query_heads, n, head_dim] and keys
/// [kv_heads, tokens, head_dim] agree in type, device and sizes, and heads divide into groups.
/// `any_cache`: float32 queries go with keys of any type.
void check_queries_and_keys(const at::Tensor& queries, const at::Tensor& keys, const char* function,
                            bool any_cache = false);

/// Throws Error{usage} unless `tensor` has the sizes, or is undefined.
void check_plane(const at::Tensor& tensor, std::int64_t rows, std::int64_t columns,
                 at::ScalarType type, const char* name, const char* function);

/// Throws Error{usage} naming `function` unless all that a forward pass reads fits together, and
/// Error{unsupported} for a window over slots. The lengths, made contiguous.
at::Tensor check_forward(const at::Tensor& queries, const at::Tensor& keys,
                         const at::Tensor& values, const at::Tensor& multiplicity,
                         const at::Tensor& length, const AttentionOptions& options,
                         const char* function);

/// Throws Error{usage} for options out of range.
void check_stats_options(const AttentionStatsOptions& options, const char* function);

/// Keys or values as the inner loops of so many rows read them: a few rows take bfloat16 as it
/// lies, converting it would cost more than the attention.
at::Tensor cache_operand(const at::Tensor& tensor, std::int64_t rows);

/// The tensor itself if its last axis is contiguous, else a contiguous copy.
at::Tensor with_dense_rows(const at::Tensor& tensor);

}  // namespace kvscope::detail
