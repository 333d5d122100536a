#pragma once

#include <cstdint>

#include "kvscope/core/shape.h"

namespace kvscope {

/// How a cache stores what it keeps. Named by a method, implemented by the runtime.
struct CacheForm {
  enum class Positions {
    original,      ///< a slot keeps its token's position; gaps stay
    cache_index,   ///< rotated by the slot's index (StreamingLLM's paper form)
    multiplicity,  ///< rotated by the running sum of multiplicities, less the first (AsymKV)
  };
  enum class Values {
    mean,  ///< one value row stands for the slot
    sum,   ///< summed values, divided by the multiplicity where they are read
  };
  Frame keys = Frame::post_rope;
  Positions positions = Positions::original;
  Values values = Values::mean;
  /// Value rows that a cut leaves are stored as integers of 4 or 8 bits with one float32 scale for
  /// each slot; 0: as the model computes them. What comes after the cut stays whole until the next.
  int value_bits = 0;

  bool operator==(const CacheForm&) const = default;
};

/// Bytes of one value row that a cut has left, of `head_dim` numbers that take `number_bytes` each
/// where they are whole.
inline std::int64_t value_row_bytes(const CacheForm& form, int head_dim, int number_bytes) {
  constexpr std::int64_t scale_bytes = 4;
  return form.value_bits == 0 ? std::int64_t{head_dim} * number_bytes
                              : (std::int64_t{head_dim} * form.value_bits + 7) / 8 + scale_bytes;
}

}  // namespace kvscope
