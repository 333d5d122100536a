#pragma once

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

  bool operator==(const CacheForm&) const = default;
};

}  // namespace kvscope
