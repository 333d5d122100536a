#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope {

/// Norms ||v_j W^h|| of every value through each query head's projection: [query_heads, slots]
/// float32, on the device of `values`.
///
/// values [kv_heads, slots, head_dim] float32; weights [query_heads, head_dim, columns] float32, of
/// the same device, query heads grouped by KV head (W_O^h, or its factor L with L L^T = W_O^h
/// W_O^h^T, which gives the same L2 norms from head_dim columns); order 1 or 2. On the CPU a block
/// of slots at a time, so that [slots, columns] never exists as a whole. NaN stays visible.
/// Throws Error{usage} on other shapes, types, devices or orders.
at::Tensor projected_norms(const at::Tensor& values, const at::Tensor& weights, int order);

}  // namespace kvscope
