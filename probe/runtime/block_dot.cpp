#include "block_dot.h"

#include <cstring>
#include <string_view>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own undefined operands for uninitialised ones (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

namespace kvscope::detail {

#if defined(__x86_64__)
namespace {

#define KVSCOPE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")))
#define KVSCOPE_INLINE KVSCOPE_AVX512 inline __attribute__((always_inline))

constexpr int width = 16;

/// Two running sums of one row: neighbouring registers of weights go to different ones.
struct Sums {
  __m512 first;
  __m512 second;
};

KVSCOPE_INLINE __m128i bytes16(const std::uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
KVSCOPE_INLINE float half_at(const std::uint8_t* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}
KVSCOPE_INLINE __m512 sixteen_levels() {
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
/// The sixteen values a four-bit weight can have: level * scale + offset. Products of a level and a
/// scale are exact, so the fused form rounds as the dequantiser does.
KVSCOPE_INLINE __m512 table(float scale, float offset) {
  return _mm512_fmadd_ps(sixteen_levels(), _mm512_set1_ps(scale), _mm512_set1_ps(offset));
}
KVSCOPE_INLINE void add(__m512 weights, const float* x, __m512& sum) {
  sum = _mm512_fmadd_ps(weights, _mm512_loadu_ps(x), sum);
}
/// Sixteen bytes of two nibbles each: the lower nibbles meet x, the upper ones x + `apart`. The
/// permutation reads the low four bits of an index, so nothing is masked.
KVSCOPE_INLINE void add_nibbles(__m128i packed, __m512 low, __m512 high, const float* x,
                                std::int64_t apart, Sums& sums) {
  const __m512i index = _mm512_cvtepu8_epi32(packed);
  add(_mm512_permutexvar_ps(index, low), x, sums.first);
  add(_mm512_permutexvar_ps(_mm512_srli_epi32(index, 4), high), x + apart, sums.second);
}

struct F32 {
  static constexpr int bytes = 128, elements = 32;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    add(_mm512_loadu_ps(block), x, sums.first);
    add(_mm512_loadu_ps(block + 64), x + width, sums.second);
  }
};

KVSCOPE_INLINE __m256i bytes32(const std::uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

struct F16 {
  static constexpr int bytes = 64, elements = 32;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    add(_mm512_cvtph_ps(bytes32(block)), x, sums.first);
    add(_mm512_cvtph_ps(bytes32(block + 32)), x + width, sums.second);
  }
};

KVSCOPE_INLINE __m512 widened(__m256i bfloats) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bfloats), 16));
}

struct BF16 {
  static constexpr int bytes = 64, elements = 32;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    add(widened(bytes32(block)), x, sums.first);
    add(widened(bytes32(block + 32)), x + width, sums.second);
  }
};

struct Q40 {
  static constexpr int bytes = 18, elements = 32;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block);
    const __m512 values = table(d, -8 * d);
    add_nibbles(bytes16(block + 2), values, values, x, width, sums);
  }
};

struct Q41 {
  static constexpr int bytes = 20, elements = 32;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const __m512 values = table(half_at(block), half_at(block + 2));
    add_nibbles(bytes16(block + 4), values, values, x, width, sums);
  }
};

struct Q50 {
  static constexpr int bytes = 22, elements = 32;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block);
    std::uint32_t high;
    std::memcpy(&high, block + 2, sizeof(high));
    const __m512i packed = _mm512_cvtepu8_epi32(bytes16(block + 6));
    const __m512i sixteen = _mm512_set1_epi32(16);
    const __m512i low = _mm512_and_epi32(packed, _mm512_set1_epi32(15));
    const __m512i upper = _mm512_srli_epi32(packed, 4);
    const __m512 scale = _mm512_set1_ps(d);
    const __m512 offset = _mm512_set1_ps(-16 * d);
    const auto weights = [&](__m512i levels, std::uint32_t mask) KVSCOPE_AVX512 {
      const __m512i full =
          _mm512_mask_or_epi32(levels, static_cast<__mmask16>(mask), levels, sixteen);
      return _mm512_fmadd_ps(_mm512_cvtepi32_ps(full), scale, offset);
    };
    add(weights(low, high & 0xffff), x, sums.first);
    add(weights(upper, high >> 16), x + width, sums.second);
  }
};

KVSCOPE_INLINE __m512 signed_levels(__m128i packed) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(packed));
}

struct Q80 {
  static constexpr int bytes = 34, elements = 32;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const __m512 scale = _mm512_set1_ps(half_at(block));
    add(_mm512_mul_ps(signed_levels(bytes16(block + 2)), scale), x, sums.first);
    add(_mm512_mul_ps(signed_levels(bytes16(block + 18)), scale), x + width, sums.second);
  }
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

struct Q4K {
  static constexpr int bytes = 144, elements = 256;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block);
    const float dmin = half_at(block + 2);
    for (int pair = 0; pair < 4; ++pair) {
      const GroupScales even = group_scales(block + 4, 2 * pair);
      const GroupScales odd = group_scales(block + 4, 2 * pair + 1);
      const __m512 low =
          table(d * static_cast<float>(even.scale), -dmin * static_cast<float>(even.minimum));
      const __m512 high =
          table(d * static_cast<float>(odd.scale), -dmin * static_cast<float>(odd.minimum));
      const std::uint8_t* quants = block + 16 + 32 * pair;
      add_nibbles(bytes16(quants), low, high, x + 64 * pair, 32, sums);
      add_nibbles(bytes16(quants + 16), low, high, x + 64 * pair + width, 32, sums);
    }
  }
};

struct Q6K {
  static constexpr int bytes = 210, elements = 256;
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block + 208);
    const __m128i low_bits = _mm_set1_epi8(15);
    const __m128i two_bits = _mm_set1_epi8(3);
    const __m128i middle = _mm_set1_epi8(32);
    for (int piece = 0; piece < 16; ++piece) {  // sixteen elements under one scale
      const int half = piece / 8;
      const int quarter = piece % 8 / 2;
      const int offset = piece % 2 * width;
      const __m128i low = bytes16(block + half * 64 + quarter % 2 * 32 + offset);
      const __m128i high = bytes16(block + 128 + half * 32 + offset);
      const __m128i nibbles = _mm_and_si128(quarter < 2 ? low : _mm_srli_epi16(low, 4), low_bits);
      const __m128i upper = _mm_and_si128(_mm_srli_epi16(high, 2 * quarter), two_bits);
      const __m128i levels = _mm_sub_epi8(_mm_or_si128(nibbles, _mm_slli_epi16(upper, 4)), middle);
      const auto scale = static_cast<std::int8_t>(block[192 + half * 8 + offset / width + 2 * quarter]);
      const __m512 weights = _mm512_mul_ps(_mm512_set1_ps(d * static_cast<float>(scale)),
                                           signed_levels(levels));
      add(weights, x + piece * width, piece % 2 == 0 ? sums.first : sums.second);
    }
  }
};

/// Rows whose sums are kept in registers at once.
constexpr int rows_at_once = 4;

template <typename Type, int count>
KVSCOPE_INLINE void dot_some(const std::uint8_t* rows, const float* x, std::int64_t columns,
                             float* out) {
  const std::int64_t blocks = columns / Type::elements;
  const std::int64_t row_bytes = blocks * Type::bytes;
  Sums sums[count];
  for (Sums& sum : sums) {
    sum = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (int row = 0; row < count; ++row) {
      const std::uint8_t* at = rows + row * row_bytes + block * Type::bytes;
      __builtin_prefetch(at + count * row_bytes);
      Type::accumulate(at, x + block * Type::elements, sums[row]);
    }
  }
  for (int row = 0; row < count; ++row) {
    out[row] = _mm512_reduce_add_ps(_mm512_add_ps(sums[row].first, sums[row].second));
  }
}

template <typename Type>
KVSCOPE_AVX512 void dot_rows(const std::uint8_t* rows, const float* x, std::int64_t count,
                             std::int64_t columns, float* out) {
  const std::int64_t row_bytes = columns / Type::elements * Type::bytes;
  std::int64_t row = 0;
  for (; row + rows_at_once <= count; row += rows_at_once) {
    dot_some<Type, rows_at_once>(rows + row * row_bytes, x, columns, out + row);
  }
  for (; row < count; ++row) {
    dot_some<Type, 1>(rows + row * row_bytes, x, columns, out + row);
  }
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

struct Loop {
  const char* type;
  int elements;
  BlockDot dot;
};

template <typename Type>
constexpr Loop loop_of(const char* name) {
  return {name, Type::elements, dot_rows<Type>};
}

constexpr Loop loops[] = {loop_of<F32>("F32"),  loop_of<F16>("F16"),  loop_of<BF16>("BF16"),
                          loop_of<Q40>("Q4_0"), loop_of<Q41>("Q4_1"), loop_of<Q50>("Q5_0"),
                          loop_of<Q80>("Q8_0"), loop_of<Q4K>("Q4_K"), loop_of<Q6K>("Q6_K")};

}  // namespace

BlockDot block_dot(const BlockType& type, std::int64_t columns) {
  static const bool able = has_avx512();
  for (const Loop& loop : loops) {
    if (able && std::string_view(type.name) == loop.type && columns % loop.elements == 0) {
      return loop.dot;
    }
  }
  return nullptr;
}

#else

BlockDot block_dot(const BlockType&, std::int64_t) {
  return nullptr;
}

#endif

}  // namespace kvscope::detail
