#if defined(__x86_64__)

#define KVSCOPE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")))
#include "block_rows.h"

namespace kvscope::detail {
namespace {

constexpr int width = 16;

/// Two running sums of one row: neighbouring registers of weights go to different ones.
struct Sums {
  __m512 first;
  __m512 second;

  KVSCOPE_INLINE void clear() { first = second = _mm512_setzero_ps(); }
  KVSCOPE_INLINE float total() const { return _mm512_reduce_add_ps(_mm512_add_ps(first, second)); }
};

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

struct F32 : F32Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    add(_mm512_loadu_ps(block), x, sums.first);
    add(_mm512_loadu_ps(block + 64), x + width, sums.second);
  }
};

KVSCOPE_INLINE __m256i bytes32(const std::uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

struct F16 : F16Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    add(_mm512_cvtph_ps(bytes32(block)), x, sums.first);
    add(_mm512_cvtph_ps(bytes32(block + 32)), x + width, sums.second);
  }
};

KVSCOPE_INLINE __m512 widened(__m256i bfloats) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bfloats), 16));
}

struct BF16 : BF16Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    add(widened(bytes32(block)), x, sums.first);
    add(widened(bytes32(block + 32)), x + width, sums.second);
  }
};

struct Q40 : Q40Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block);
    const __m512 values = table(d, -8 * d);
    add_nibbles(bytes16(block + 2), values, values, x, width, sums);
  }
};

struct Q41 : Q41Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const __m512 values = table(half_at(block), half_at(block + 2));
    add_nibbles(bytes16(block + 4), values, values, x, width, sums);
  }
};

struct Q50 : Q50Layout {
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
    const auto weights = [&](__m512i levels, std::uint32_t mask) KVSCOPE_TARGET {
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

struct Q80 : Q80Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const __m512 scale = _mm512_set1_ps(half_at(block));
    add(_mm512_mul_ps(signed_levels(bytes16(block + 2)), scale), x, sums.first);
    add(_mm512_mul_ps(signed_levels(bytes16(block + 18)), scale), x + width, sums.second);
  }
};

struct Q4K : Q4KLayout {
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

struct Q6K : Q6KLayout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    for (int piece = 0; piece < 16; ++piece) {
      const __m512 weights = _mm512_mul_ps(_mm512_set1_ps(six_bit_scale(block, piece)),
                                           signed_levels(six_bit_levels(block, piece)));
      add(weights, x + piece * width, piece % 2 == 0 ? sums.first : sums.second);
    }
  }
};

}  // namespace

std::span<const BlockLoop> block_loops_avx512() {
  return loops_of<Sums, F32, F16, BF16, Q40, Q41, Q50, Q80, Q4K, Q6K>;
}

}  // namespace kvscope::detail

#endif
