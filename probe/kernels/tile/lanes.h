#pragma once

#include "tile/vector.h"

namespace kvscope::tile::KVSCOPE_TILE_ISA {

struct LaneHalves {
  Floats low;
  Floats high;
};

/// Low and high halves of the segments of a and of b side by side: of vectors that hold `Segments`
/// keys each, what two that hold twice as many are joined from.
template <int Segments>
inline __attribute__((always_inline)) LaneHalves halves(Floats a, Floats b) {
  constexpr int length = width / Segments;
  constexpr int half = length / 2;
#if defined(__clang__)
  LaneHalves parts;
  for (int lane = 0; lane < width; ++lane) {
    const Floats& from = lane < width / 2 ? a : b;
    const int at = lane % (width / 2) / half * length + lane % half;
    parts.low[lane] = from[at];
    parts.high[lane] = from[at + half];
  }
  return parts;
#else
  Ints low;
  Ints high;
  for (int lane = 0; lane < width; ++lane) {
    low[lane] = lane % (width / 2) / half * length + lane % half + (lane < width / 2 ? 0 : width);
    high[lane] = low[lane] + half;
  }
  return {__builtin_shuffle(a, b, low), __builtin_shuffle(a, b, high)};
#endif
}

/// Lane k is what `join` makes of the lanes of vector k; `vectors` [width] are overwritten.
template <int Segments = 1, typename Join>
inline __attribute__((always_inline)) Floats over_lanes(Floats* vectors, const Join& join) {
  KVSCOPE_UNROLL
  for (int i = 0; i < width / Segments / 2; ++i) {
    const LaneHalves parts = halves<Segments>(vectors[2 * i], vectors[2 * i + 1]);
    vectors[i] = join(parts.low, parts.high);
  }
  if constexpr (2 * Segments < width) {
    return over_lanes<2 * Segments>(vectors, join);
  } else {
    return vectors[0];
  }
}

inline __attribute__((always_inline)) Floats sums_of_lanes(Floats* vectors) {
  return over_lanes(vectors, [](Floats a, Floats b) { return a + b; });
}

inline __attribute__((always_inline)) Floats maxima_of_lanes(Floats* vectors) {
  return over_lanes(vectors, [](Floats a, Floats b) { return larger(a, b); });
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
