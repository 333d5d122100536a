#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope::detail {

/// x weight^T + bias as a new tensor [rows of x, rows of weight] in their type; no bias where it is
/// undefined. In float32 on AMD's processors by oneDNN, whose kernels use the registers in full,
/// which those of MKL, where LibTorch's own products go, do not. In bfloat16 on processors without
/// AVX-512 by way of float32: LibTorch has only loops over single numbers there.
at::Tensor matrix_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace kvscope::detail
