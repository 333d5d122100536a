#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <iterator>
#include <vector>

namespace kvscope::detail {

/// `values` cut to the `chosen` indices of one axis, ascending; the tensor itself if these are all.
inline at::Tensor chosen_rows(const at::Tensor& values, std::int64_t axis,
                              const std::vector<int>& chosen) {
  if (std::ssize(chosen) == values.size(axis)) {
    return values;
  }
  const std::vector<std::int64_t> index(chosen.begin(), chosen.end());
  return values.index_select(axis,
                             at::tensor(index, at::TensorOptions(at::kLong)).to(values.device()));
}

}  // namespace kvscope::detail
