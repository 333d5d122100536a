#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope::detail {

/// Throws Error{usage} naming `function` unless queries [query_heads, n, head_dim] and keys
/// [kv_heads, tokens, head_dim] agree in type, device and sizes, and heads divide into groups.
/// `any_cache`: float32 queries go with keys of any type.
void check_queries_and_keys(const at::Tensor& queries, const at::Tensor& keys, const char* function,
                            bool any_cache = false);

/// Throws Error{usage} unless `tensor` has the sizes, or is undefined.
void check_plane(const at::Tensor& tensor, std::int64_t rows, std::int64_t columns,
                 at::ScalarType type, const char* name, const char* function);

/// The tensor itself if its last axis is contiguous, else a contiguous copy.
at::Tensor with_dense_rows(const at::Tensor& tensor);

}  // namespace kvscope::detail
