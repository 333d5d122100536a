#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace kvscope::detail {

/// out[r] = sum over c of weight[r, c] * x[c]: one token's matrix product, as fast as the weights
/// can be read; LibTorch's products over one row spend as long again on starting up. weight [rows,
/// columns] contiguous in float32 or bfloat16, x of `columns` numbers in the same type, out of
/// `rows` in float32, all on the CPU. Sums are float32 and the same for any number of threads.
void matrix_vector(const at::Tensor& weight, const at::Tensor& x, at::Tensor& out);

/// out[r] = weight[r] . x for `rows` contiguous rows; serial.
void dot_rows(const float* weight, const float* x, std::int64_t rows, std::int64_t columns,
              float* out);

}  // namespace kvscope::detail
