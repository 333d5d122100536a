#pragma once

#include <cstdint>

#include "kvscope/model/block_type.h"

namespace kvscope::detail {

/// out[r] = row r . x of `rows` rows of `columns` stored elements. Every weight is the float that
/// its type's dequantiser gives; only the order of the sum is ours. Serial: callers split rows over
/// threads.
using BlockDot = void (*)(const std::uint8_t* rows, const float* x, std::int64_t count,
                          std::int64_t columns, float* out);

/// The loop that takes rows of `columns` elements of `type` apart in registers; nullptr if there is
/// none (it needs AVX2 or AVX-512, columns in whole blocks of 32, and F32, F16, BF16, Q4_0, Q4_1,
/// Q5_0, Q8_0, Q4_K or Q6_K). Then rows are dequantised first.
BlockDot block_dot(const BlockType& type, std::int64_t columns);

}  // namespace kvscope::detail
