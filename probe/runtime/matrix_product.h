#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope::detail {

/// x weight^T + bias as a new tensor [rows of x, rows of weight] in their type; no bias where it is
/// undefined. In float32 on processors of AMD with AVX-512 by oneDNN, whose kernels use its
/// registers in full; MKL, which LibTorch's own products go to, takes those of AVX2 there.
at::Tensor matrix_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace kvscope::detail
