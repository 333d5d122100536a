#pragma once

// Vectors of KVSCOPE_TILE_WIDTH floats in the compiler's own extension. Included by the tile_*.cpp
// files only, each of which is compiled for one instruction set and sets KVSCOPE_TILE_ISA: the
// namespace keeps code of one set from being linked into another. For the same reason nothing here
// or in the files that include it uses the standard library.

#include <cstdint>

#if defined(__clang__)
#define KVSCOPE_UNROLL _Pragma("unroll")
#else
#define KVSCOPE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace kvscope::tile::KVSCOPE_TILE_ISA {

inline constexpr int width = KVSCOPE_TILE_WIDTH;
inline constexpr int tile_keys = 2 * width;  ///< keys of one register tile
inline constexpr int tile_rows = KVSCOPE_TILE_ROWS;

using Floats = float __attribute__((vector_size(width * 4)));
using Ints = std::int32_t __attribute__((vector_size(width * 4)));
using LooseFloats = float __attribute__((vector_size(width * 4), aligned(4)));

inline Floats load(const float* from) {
  return *reinterpret_cast<const LooseFloats*>(from);
}
/// bfloat16 as bits: the upper half of a float.
inline Floats load(const std::uint16_t* from) {
  using Halves = std::uint16_t __attribute__((vector_size(width * 2)));
  using LooseHalves = std::uint16_t __attribute__((vector_size(width * 2), aligned(2)));
  const Halves halves = *reinterpret_cast<const LooseHalves*>(from);
  return reinterpret_cast<Floats>(__builtin_convertvector(halves, Ints) << 16);
}
inline float value_of(float value) {
  return value;
}
inline float value_of(std::uint16_t value) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(value) << 16);
}
inline void store(float* to, Floats value) {
  *reinterpret_cast<LooseFloats*>(to) = value;
}
inline Floats broadcast(float value) {
  return value - Floats{};  // x - 0 is x for every x, and folds away
}
inline Floats select(Ints mask, Floats yes, Floats no) {
  return mask ? yes : no;
}
/// As the instructions have it: b where either is NaN.
inline Floats smaller(Floats a, Floats b) {
  return a < b ? a : b;
}
inline Floats larger(Floats a, Floats b) {
  return a > b ? a : b;
}

/// Bit k: whether lane k of a comparison holds.
inline unsigned bits_of(Ints comparison) {
  unsigned bits = 0;
#if defined(__AVX__)
  if constexpr (width % 8 == 0) {
    using Eight = float __attribute__((vector_size(32)));
    for (int part = 0; part < width / 8; ++part) {
      Eight lanes;
      __builtin_memcpy(&lanes, reinterpret_cast<const char*>(&comparison) + 32 * part,
                       sizeof lanes);
      bits |= static_cast<unsigned>(__builtin_ia32_movmskps256(lanes)) << (8 * part);
    }
    return bits;
  }
#endif
  for (int lane = 0; lane < width; ++lane) {
    bits |= (comparison[lane] != 0 ? 1U : 0U) << lane;
  }
  return bits;
}

inline Ints lane_index() {
  Ints index{};
  for (int lane = 0; lane < width; ++lane) {
    index[lane] = lane;
  }
  return index;
}

inline float sum_of_lanes(Floats value) {
  alignas(64) float lane[width];
  store(lane, value);
  for (int half = width / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      lane[i] += lane[i + half];
    }
  }
  return lane[0];
}

inline float max_of_lanes(Floats value) {
  float best = value[0];
  for (int lane = 1; lane < width; ++lane) {
    best = value[lane] > best ? value[lane] : best;
  }
  return best;
}

/// 2^x within 8e-8 relative; 0 below -126.5, held at 2^127 above; NaN stays NaN.
inline Floats exp2_fast(Floats x) {
  x = smaller(broadcast(127.0f), larger(broadcast(-127.0f), x));
  const Floats magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x + magic;
  const Floats f = x - (shifted - magic);
  Floats p = broadcast(1.534581243e-04f);
  p = p * f + 1.339993090e-03f;
  p = p * f + 9.618489072e-03f;
  p = p * f + 5.550328642e-02f;
  p = p * f + 2.402264625e-01f;
  p = p * f + 6.931471825e-01f;
  p = p * f + 1.0f;
  const Ints exponent = reinterpret_cast<Ints>(shifted) - (0x4B400000 - 127);
  return p * reinterpret_cast<Floats>(exponent << 23);
}

/// tanh within 1e-7 absolute, 1e-7 relative near 0.
inline Floats tanh_fast(Floats x) {
  const Floats near = broadcast(0.25f);
  const Floats square = x * x;
  Floats p = broadcast(62.0f / 2835.0f);
  p = p * square - 17.0f / 315.0f;
  p = p * square + 2.0f / 15.0f;
  p = p * square - 1.0f / 3.0f;
  const Floats small = x + x * square * p;
  const Floats wide = 1.0f - 2.0f / (1.0f + exp2_fast(x * 2.885390081777927f));
  return (x < near) & (x > -near) ? small : wide;
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
