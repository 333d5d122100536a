#if defined(__x86_64__)

#define KVSCOPE_TARGET __attribute__((target("avx2,fma,f16c")))
#include "block_rows.h"

namespace kvscope::detail {
namespace {

constexpr int width = 8;

/// Two running sums of one row: neighbouring registers of weights go to different ones.
struct Sums {
  __m256 first;
  __m256 second;

  KVSCOPE_INLINE void clear() { first = second = _mm256_setzero_ps(); }
  KVSCOPE_INLINE float total() const {
    const __m256 all = _mm256_add_ps(first, second);
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
};

KVSCOPE_INLINE __m128i bytes8(const std::uint8_t* from) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
}
KVSCOPE_INLINE void add(__m256 weights, const float* x, __m256& sum) {
  sum = _mm256_fmadd_ps(weights, _mm256_loadu_ps(x), sum);
}

/// A weight is level * scale + offset. Products of a level and a scale are exact, so the fused form
/// rounds as the dequantiser does.
struct Line {
  __m256 scale;
  __m256 offset;

  KVSCOPE_INLINE static Line of(float scale, float offset) {
    return {_mm256_set1_ps(scale), _mm256_set1_ps(offset)};
  }
  KVSCOPE_INLINE __m256 at(__m256i levels) const {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(levels), scale, offset);
  }
};

/// Sixteen bytes of two nibbles each: the lower nibbles meet x, the upper ones x + `apart`.
KVSCOPE_INLINE void add_nibbles(const std::uint8_t* packed, const Line& low, const Line& high,
                                const float* x, std::int64_t apart, Sums& sums) {
  const __m256i four_bits = _mm256_set1_epi32(15);
  for (int first = 0; first < 2 * width; first += width) {
    const __m256i index = _mm256_cvtepu8_epi32(bytes8(packed + first));
    add(low.at(_mm256_and_si256(index, four_bits)), x + first, sums.first);
    add(high.at(_mm256_srli_epi32(index, 4)), x + apart + first, sums.second);
  }
}

struct F32 : F32Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const auto* weights = reinterpret_cast<const float*>(block);
    for (int first = 0; first < elements; first += 2 * width) {
      add(_mm256_loadu_ps(weights + first), x + first, sums.first);
      add(_mm256_loadu_ps(weights + first + width), x + first + width, sums.second);
    }
  }
};

struct F16 : F16Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    for (int first = 0; first < elements; first += 2 * width) {
      add(_mm256_cvtph_ps(bytes16(block + 2 * first)), x + first, sums.first);
      add(_mm256_cvtph_ps(bytes16(block + 2 * first + 2 * width)), x + first + width, sums.second);
    }
  }
};

KVSCOPE_INLINE __m256 widened(__m128i bfloats) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bfloats), 16));
}

struct BF16 : BF16Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    for (int first = 0; first < elements; first += 2 * width) {
      add(widened(bytes16(block + 2 * first)), x + first, sums.first);
      add(widened(bytes16(block + 2 * first + 2 * width)), x + first + width, sums.second);
    }
  }
};

struct Q40 : Q40Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block);
    const Line line = Line::of(d, -8 * d);
    add_nibbles(block + 2, line, line, x, 16, sums);
  }
};

struct Q41 : Q41Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const Line line = Line::of(half_at(block), half_at(block + 2));
    add_nibbles(block + 4, line, line, x, 16, sums);
  }
};

struct Q50 : Q50Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block);
    const Line line = Line::of(d, -16 * d);
    std::uint32_t bits;
    std::memcpy(&bits, block + 2, sizeof(bits));
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i four_bits = _mm256_set1_epi32(15);
    const __m256i sixteen = _mm256_set1_epi32(16);
    // The fifth bits of eight elements, the first of which is bit 4 of `moved`.
    const auto fifth = [&](std::uint32_t moved) KVSCOPE_TARGET {
      const __m256i all = _mm256_set1_epi32(static_cast<int>(moved));
      return _mm256_and_si256(_mm256_srlv_epi32(all, lanes), sixteen);
    };
    for (int first = 0; first < 2 * width; first += width) {
      const __m256i packed = _mm256_cvtepu8_epi32(bytes8(block + 6 + first));
      const __m256i low = _mm256_or_si256(_mm256_and_si256(packed, four_bits),
                                          fifth(first == 0 ? bits << 4 : bits >> 4));
      const __m256i high =
          _mm256_or_si256(_mm256_srli_epi32(packed, 4), fifth(bits >> (12 + first)));
      add(line.at(low), x + first, sums.first);
      add(line.at(high), x + 2 * width + first, sums.second);
    }
  }
};

KVSCOPE_INLINE __m256 signed_levels(__m128i packed) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(packed));
}

struct Q80 : Q80Layout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const __m256 scale = _mm256_set1_ps(half_at(block));
    for (int first = 0; first < elements; first += 2 * width) {
      const std::uint8_t* at = block + 2 + first;
      add(_mm256_mul_ps(signed_levels(bytes8(at)), scale), x + first, sums.first);
      add(_mm256_mul_ps(signed_levels(bytes8(at + width)), scale), x + first + width, sums.second);
    }
  }
};

struct Q4K : Q4KLayout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    const float d = half_at(block);
    const float dmin = half_at(block + 2);
    const auto line = [&](const GroupScales& group) KVSCOPE_TARGET {
      return Line::of(d * static_cast<float>(group.scale),
                      -dmin * static_cast<float>(group.minimum));
    };
    for (int pair = 0; pair < 4; ++pair) {
      const Line low = line(group_scales(block + 4, 2 * pair));
      const Line high = line(group_scales(block + 4, 2 * pair + 1));
      const std::uint8_t* quants = block + 16 + 32 * pair;
      add_nibbles(quants, low, high, x + 64 * pair, 32, sums);
      add_nibbles(quants + 16, low, high, x + 64 * pair + 16, 32, sums);
    }
  }
};

struct Q6K : Q6KLayout {
  KVSCOPE_INLINE static void accumulate(const std::uint8_t* block, const float* x, Sums& sums) {
    for (int piece = 0; piece < 16; ++piece) {
      const __m256 scale = _mm256_set1_ps(six_bit_scale(block, piece));
      const __m128i levels = six_bit_levels(block, piece);
      const float* at = x + 2 * width * piece;
      add(_mm256_mul_ps(scale, signed_levels(levels)), at, sums.first);
      add(_mm256_mul_ps(scale, signed_levels(_mm_srli_si128(levels, width))), at + width,
          sums.second);
    }
  }
};

}  // namespace

std::span<const BlockLoop> block_loops_avx2() {
  return loops_of<Sums, F32, F16, BF16, Q40, Q41, Q50, Q80, Q4K, Q6K>;
}

}  // namespace kvscope::detail

#endif
