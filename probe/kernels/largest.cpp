#include "kvscope/kernels/largest.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvscope {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// The largest of each of `groups` groups: group g holds numbers g, g + groups, ..., so that a row
/// of groups is compared at once. -inf for a group of NaN.
std::vector<float> group_maxima(std::span<const ScaledValues> pieces, std::int64_t groups) {
  std::vector<float> maxima(static_cast<std::size_t>(groups),
                            -std::numeric_limits<float>::infinity());
  std::int64_t group = 0;
  for (const ScaledValues& piece : pieces) {
    for (std::int64_t at = 0; at < piece.count;) {
      const std::int64_t count = std::min(groups - group, piece.count - at);
      float* best = maxima.data() + group;
      for (std::int64_t i = 0; i < count; ++i) {
        const float value = piece.values[at + i] * piece.factor;
        best[i] = value > best[i] ? value : best[i];
      }
      at += count;
      group = (group + count) % groups;
    }
  }
  return maxima;
}

/// A number that at least `count` of all reach, if there are so many, and not many more: the
/// count-th largest of the maxima of groups.
float reached_by(std::span<const ScaledValues> pieces, int count) {
  std::vector<float> maxima = group_maxima(pieces, std::int64_t{8} * count);
  std::nth_element(maxima.begin(), maxima.begin() + count - 1, maxima.end(), std::greater());
  return maxima[static_cast<std::size_t>(count) - 1];
}

constexpr std::uint32_t sign = 0x80000000;

/// A value and its index as one number: a larger value is larger, of equal ones the lower index.
std::uint64_t ordered(float value, std::int64_t index) {
  const auto bits = std::bit_cast<std::uint32_t>(value + 0.0f);  // -0 equals 0
  const std::uint32_t rank = (bits & sign) != 0 ? ~bits : bits | sign;
  return std::uint64_t{rank} << 32 | (~static_cast<std::uint32_t>(index));
}

RankedValue ranked(std::uint64_t number) {
  const auto rank = static_cast<std::uint32_t>(number >> 32);
  return {static_cast<std::int32_t>(~static_cast<std::uint32_t>(number)),
          std::bit_cast<float>((rank & sign) != 0 ? rank & ~sign : ~rank)};
}

/// Numbers that reach `least`, each as `ordered`: all of them, or more than `limit`.
struct Found {
  std::vector<std::uint64_t>& numbers;
  float least;
  std::int64_t limit;

  bool full() const { return std::ssize(numbers) > limit; }
  /// Those of `bits` are known to reach it.
  void add(const ScaledValues& piece, std::int64_t first, unsigned bits) {
    for (; bits != 0; bits &= bits - 1) {
      const std::int64_t at = first + std::countr_zero(bits);
      numbers.push_back(ordered(piece.values[at] * piece.factor, piece.first_index + at));
    }
  }
  void add_rest(const ScaledValues& piece, std::int64_t first) {
    for (; first < piece.count && !full(); ++first) {
      add(piece, first, piece.values[first] * piece.factor >= least ? 1U : 0U);
    }
  }
};

#if defined(__x86_64__)
__attribute__((target("avx2"))) void find_avx2(const ScaledValues& piece, Found& found) {
  constexpr std::int64_t block = 32;
  const __m256 factor = _mm256_set1_ps(piece.factor);
  const __m256 least = _mm256_set1_ps(found.least);
  std::int64_t first = 0;
  for (; first + block <= piece.count && !found.full(); first += block) {
    __m256 reached[block / 8];
    for (int part = 0; part < block / 8; ++part) {
      const __m256 value = _mm256_loadu_ps(piece.values + first + 8 * part);
      reached[part] = _mm256_cmp_ps(_mm256_mul_ps(value, factor), least, _CMP_GE_OQ);
    }
    const __m256 any =
        _mm256_or_ps(_mm256_or_ps(reached[0], reached[1]), _mm256_or_ps(reached[2], reached[3]));
    for (int part = 0; _mm256_movemask_ps(any) != 0 && part < block / 8; ++part) {
      found.add(piece, first + 8 * part, static_cast<unsigned>(_mm256_movemask_ps(reached[part])));
    }
  }
  found.add_rest(piece, first);
}
#endif

/// Looks only into blocks whose maximum reaches it. Values may lie in another processor's cache:
/// all those blocks are sent for before the first is read.
void find_by_maxima(std::span<const ScaledValues> pieces, Found& found) {
  struct Block {
    const ScaledValues* piece;
    std::int64_t first;
  };
  thread_local std::vector<Block> blocks;
  blocks.clear();
  for (const ScaledValues& piece : pieces) {
    for (std::int64_t first = 0; first < piece.count; first += piece.block) {
      if (piece.maxima[first / piece.block] * piece.factor >= found.least) {
        __builtin_prefetch(piece.values + first);
        blocks.push_back({&piece, first});
      }
    }
  }
  for (const Block& block : blocks) {
    const ScaledValues& piece = *block.piece;
    const std::int64_t count = std::min<std::int64_t>(piece.block, piece.count - block.first);
    const float* values = piece.values + block.first;
    unsigned bits = 0;
    for (std::int64_t at = 0; at < count; ++at) {
      bits |= static_cast<unsigned>(values[at] * piece.factor >= found.least) << at;
    }
    found.add(piece, block.first, bits);
    if (found.full()) {
      return;
    }
  }
}

void find(const ScaledValues& piece, Found& found) {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2");
  if (avx2) {
    find_avx2(piece, found);
    return;
  }
#endif
  found.add_rest(piece, 0);
}

void find_reaching(std::span<const ScaledValues> pieces, float least, std::int64_t limit,
                   std::vector<std::uint64_t>& numbers) {
  numbers.clear();
  Found found{numbers, least, limit};
  if (pieces.front().maxima != nullptr) {
    find_by_maxima(pieces, found);
    return;
  }
  for (const ScaledValues& piece : pieces) {
    find(piece, found);
  }
}

}  // namespace

std::vector<RankedValue> largest(std::span<const ScaledValues> pieces, int count, float& hint) {
  std::int64_t size = 0;
  for (const ScaledValues& piece : pieces) {
    size += piece.count;
  }
  if (count <= 0 || size <= 0) {
    return {};
  }
  const std::int64_t enough = std::min<std::int64_t>(count, size);
  const std::int64_t limit = std::int64_t{4} * count;
  thread_local std::vector<std::uint64_t> found;  // its room is taken once
  found.clear();
  constexpr float lower = 0.6f;  // looking again costs less than the groups below
  float least = hint;
  for (int attempt = 0; attempt < 3 && std::ssize(found) < enough && least > 0; ++attempt) {
    find_reaching(pieces, least, limit, found);
    least *= lower;
  }
  if (std::ssize(found) < enough || std::ssize(found) > limit) {
    find_reaching(pieces, reached_by(pieces, count), size, found);
  }
  std::sort(found.begin(), found.end(), std::greater());
  std::vector<RankedValue> best(std::min(found.size(), static_cast<std::size_t>(count)));
  std::transform(found.begin(), found.begin() + std::ssize(best), best.begin(), ranked);
  constexpr float slack = 0.75f;  // of probabilities: next time they will not be the same
  hint = std::ssize(best) == enough ? slack * best.back().value : nan;
  return best;
}

}  // namespace kvscope
