#pragma once

// What the loops of every instruction set share. The file of one defines KVSCOPE_TARGET, the
// attribute that names the set, and then includes this.

#ifndef KVSCOPE_TARGET
#error "define KVSCOPE_TARGET as the instruction set's attribute first"
#endif

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own undefined operands for uninitialised ones (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "block_loop.h"

#define KVSCOPE_INLINE KVSCOPE_TARGET inline __attribute__((always_inline))

namespace kvscope::detail {
namespace {

KVSCOPE_INLINE __m128i bytes16(const std::uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
KVSCOPE_INLINE float half_at(const std::uint8_t* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

/// Bytes and elements of a block, or of as many plain numbers as a loop takes at once.
template <int block_bytes, int block_elements>
struct Layout {
  static constexpr int bytes = block_bytes;
  static constexpr int elements = block_elements;
};
struct F32Layout : Layout<128, 32> {
  static constexpr const char* name = "F32";
};
struct F16Layout : Layout<64, 32> {
  static constexpr const char* name = "F16";
};
struct BF16Layout : Layout<64, 32> {
  static constexpr const char* name = "BF16";
};
struct Q40Layout : Layout<18, 32> {
  static constexpr const char* name = "Q4_0";
};
struct Q41Layout : Layout<20, 32> {
  static constexpr const char* name = "Q4_1";
};
struct Q50Layout : Layout<22, 32> {
  static constexpr const char* name = "Q5_0";
};
struct Q80Layout : Layout<34, 32> {
  static constexpr const char* name = "Q8_0";
};
struct Q4KLayout : Layout<144, 256> {
  static constexpr const char* name = "Q4_K";
};
struct Q6KLayout : Layout<210, 256> {
  static constexpr const char* name = "Q6_K";
};

/// Six bits of scale and of minimum for each of eight groups, packed in twelve bytes.
struct GroupScales {
  int scale;
  int minimum;
};
inline GroupScales group_scales(const std::uint8_t* packed, int group) {
  if (group < 4) {
    return {packed[group] & 63, packed[group + 4] & 63};
  }
  return {(packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4),
          (packed[group + 4] >> 4) | (packed[group] >> 6 << 4)};
}

/// Sixteen neighbours of a Q6_K block, which share a scale: their levels, from -32 to 31.
KVSCOPE_INLINE __m128i six_bit_levels(const std::uint8_t* block, int piece) {
  const int half = piece / 8;
  const int quarter = piece % 8 / 2;
  const int offset = piece % 2 * 16;
  const __m128i low = bytes16(block + half * 64 + quarter % 2 * 32 + offset);
  const __m128i high = bytes16(block + 128 + half * 32 + offset);
  const __m128i nibbles =
      _mm_and_si128(quarter < 2 ? low : _mm_srli_epi16(low, 4), _mm_set1_epi8(15));
  const __m128i upper = _mm_and_si128(_mm_srli_epi16(high, 2 * quarter), _mm_set1_epi8(3));
  return _mm_sub_epi8(_mm_or_si128(nibbles, _mm_slli_epi16(upper, 4)), _mm_set1_epi8(32));
}
KVSCOPE_INLINE float six_bit_scale(const std::uint8_t* block, int piece) {
  const int place = 192 + piece / 8 * 8 + piece % 2 + piece % 8 / 2 * 2;
  return half_at(block + 208) * static_cast<float>(static_cast<std::int8_t>(block[place]));
}

/// Rows whose sums are kept in registers at once.
constexpr int rows_at_once = 4;

/// `count` rows of blocks of `Type` times x. A Type says how many bytes and elements a block has
/// and how one meets x; Sums are running sums that can be cleared and totalled.
template <typename Type, typename Sums, int count>
KVSCOPE_INLINE void dot_some(const std::uint8_t* rows, const float* x, std::int64_t columns,
                             float* out) {
  const std::int64_t blocks = columns / Type::elements;
  const std::int64_t row_bytes = blocks * Type::bytes;
  Sums sums[count];
  for (Sums& sum : sums) {
    sum.clear();
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (int row = 0; row < count; ++row) {
      const std::uint8_t* at = rows + row * row_bytes + block * Type::bytes;
      __builtin_prefetch(at + count * row_bytes);
      Type::accumulate(at, x + block * Type::elements, sums[row]);
    }
  }
  for (int row = 0; row < count; ++row) {
    out[row] = sums[row].total();
  }
}

template <typename Type, typename Sums>
KVSCOPE_TARGET void dot_rows_of(const std::uint8_t* rows, const float* x, std::int64_t count,
                                std::int64_t columns, float* out) {
  const std::int64_t row_bytes = columns / Type::elements * Type::bytes;
  std::int64_t row = 0;
  for (; row + rows_at_once <= count; row += rows_at_once) {
    dot_some<Type, Sums, rows_at_once>(rows + row * row_bytes, x, columns, out + row);
  }
  for (; row < count; ++row) {
    dot_some<Type, Sums, 1>(rows + row * row_bytes, x, columns, out + row);
  }
}

template <typename Sums, typename... Types>
constexpr BlockLoop loops_of[] = {{Types::name, Types::elements, dot_rows_of<Types, Sums>}...};

}  // namespace
}  // namespace kvscope::detail
