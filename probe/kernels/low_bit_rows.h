#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope::detail {

/// `rows` [..., channels] as signed integers of `bits` (4 or 8) with one scale for each row would
/// give them back: scale = largest magnitude / (2^(bits - 1) - 1), rounded to nearest even. In the
/// type and on the device of `rows`; a row of zeros stays, and so do rows rounded before, within
/// their type's precision.
at::Tensor low_bit_rows(const at::Tensor& rows, int bits);

}  // namespace kvscope::detail
