#include "low_bit_rows.h"

#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/div.h>
#include <ATen/ops/round.h>

namespace kvscope::detail {

at::Tensor low_bit_rows(const at::Tensor& rows, int bits) {
  const double levels = (1 << (bits - 1)) - 1;
  const at::Tensor whole = rows.to(at::kFloat);
  const at::Tensor scale = whole.abs().amax({-1}, true).div_(levels);
  constexpr double least = 1e-30;  // a row of zeros divides by it
  const at::Tensor integers = at::div(whole, scale.clamp_min(least)).round_();
  return integers.clamp_(-levels, levels).mul_(scale).to(rows.scalar_type());
}

}  // namespace kvscope::detail
