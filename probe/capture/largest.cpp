#include "largest.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace kvscope::detail {
namespace {

/// The largest number of each of `groups` groups of values: group g holds values g, g + groups,
/// ..., so that a row of groups is compared at once. -inf for a group of NaN.
std::vector<float> group_maxima(const float* values, std::int64_t size, std::int64_t groups) {
  std::vector<float> maxima(static_cast<std::size_t>(groups),
                            -std::numeric_limits<float>::infinity());
  float* best = maxima.data();
  for (std::int64_t first = 0; first < size; first += groups) {
    const std::int64_t count = std::min(groups, size - first);
    const float* row = values + first;
    for (std::int64_t group = 0; group < count; ++group) {
      best[group] = row[group] > best[group] ? row[group] : best[group];
    }
  }
  return maxima;
}

/// A number that at least `count` values reach, if there are so many, and not many more: the
/// count-th largest of the maxima of groups.
float reached_by(const float* values, std::int64_t size, int count) {
  std::vector<float> maxima = group_maxima(values, size, std::int64_t{8} * count);
  std::nth_element(maxima.begin(), maxima.begin() + count - 1, maxima.end(), std::greater());
  return maxima[static_cast<std::size_t>(count) - 1];
}

/// A value and its index as one number: a larger value is larger, of equal ones the lower index.
std::uint64_t ordered(float value, std::int64_t index) {
  constexpr std::uint32_t sign = 0x80000000;
  const auto bits = std::bit_cast<std::uint32_t>(value + 0.0f);  // -0 equals 0
  const std::uint32_t rank = (bits & sign) != 0 ? ~bits : bits | sign;
  return std::uint64_t{rank} << 32 | (~static_cast<std::uint32_t>(index));
}

std::int64_t index_of(std::uint64_t number) {
  return static_cast<std::int64_t>(~static_cast<std::uint32_t>(number));
}

constexpr std::int64_t block = 16;

/// Bit i is set where values[i] of the block reaches `least`.
unsigned reached_bits(const float* values, float least) {
#if defined(__SSE2__)
  const __m128 bound = _mm_set1_ps(least);
  const auto four = [&](int at) {
    return _mm_castps_si128(_mm_cmpge_ps(_mm_loadu_ps(values + at), bound));
  };
  const __m128i low = _mm_packs_epi32(four(0), four(4));
  const __m128i high = _mm_packs_epi32(four(8), four(12));
  return static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(low, high)));
#else
  unsigned bits = 0;
  for (int at = 0; at < block; ++at) {
    bits |= values[at] >= least ? 1U << at : 0U;
  }
  return bits;
#endif
}

/// The values that reach `least`, each as `ordered`: all of them, or more than `limit`.
std::vector<std::uint64_t> reaching(const float* values, std::int64_t size, float least,
                                    std::int64_t limit) {
  std::vector<std::uint64_t> found;
  found.reserve(static_cast<std::size_t>(std::min(size, limit + block)));
  std::int64_t first = 0;
  for (; first + block <= size && std::ssize(found) <= limit; first += block) {
    for (unsigned bits = reached_bits(values + first, least); bits != 0; bits &= bits - 1) {
      const std::int64_t index = first + std::countr_zero(bits);
      found.push_back(ordered(values[index], index));
    }
  }
  for (; first < size && std::ssize(found) <= limit; ++first) {
    if (values[first] >= least) {
      found.push_back(ordered(values[first], first));
    }
  }
  return found;
}

}  // namespace

std::vector<std::int32_t> largest(const float* values, std::int64_t size, int count, float& hint) {
  if (count <= 0 || size <= 0) {
    return {};
  }
  const std::int64_t enough = std::min<std::int64_t>(count, size);
  const std::int64_t limit = std::int64_t{4} * count;
  std::vector<std::uint64_t> found;
  constexpr float lower = 0.6f;  // looking again costs less than the groups below
  float least = hint;
  for (int attempt = 0; attempt < 3 && std::ssize(found) < enough && least > 0; ++attempt) {
    found = reaching(values, size, least, limit);
    least *= lower;
  }
  if (std::ssize(found) < enough || std::ssize(found) > limit) {
    found = reaching(values, size, reached_by(values, size, count), size);
  }
  std::sort(found.begin(), found.end(), std::greater());
  std::vector<std::int32_t> best(std::min(found.size(), static_cast<std::size_t>(count)));
  std::transform(found.begin(), found.begin() + std::ssize(best), best.begin(),
                 [](std::uint64_t number) { return static_cast<std::int32_t>(index_of(number)); });
  constexpr float slack = 0.75f;  // of probabilities: next time they will not be the same
  hint = std::ssize(best) == enough ? slack * values[best.back()]
                                    : std::numeric_limits<float>::quiet_NaN();
  return best;
}

}  // namespace kvscope::detail
