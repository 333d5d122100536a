#pragma once

#include <cstdint>
#include <vector>

namespace kvscope::detail {

/// Indices of the `count` largest of `size` values, descending; equal values: the lower index
/// first; NaN is never among them. `hint`: a number that about `count` values reach, such as the
/// last one chosen from similar values before, or NaN; a bad one costs time only. It is set to
/// what will serve next time.
std::vector<std::int32_t> largest(const float* values, std::int64_t size, int count, float& hint);

}  // namespace kvscope::detail
