#include "largest.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

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
using Four = float __attribute__((vector_size(16), aligned(4)));
using Mask = std::int32_t __attribute__((vector_size(16)));

/// Whether one of the block's values reaches `least`.
bool any_reaches(const float* values, float least) {
  const auto* four = reinterpret_cast<const Four*>(values);
  const Mask reached =
      (four[0] >= least) | (four[1] >= least) | (four[2] >= least) | (four[3] >= least);
  return (reached[0] | reached[1] | reached[2] | reached[3]) != 0;
}

/// The values that reach `least`, each as `ordered`: all of them, or more than `limit`.
std::vector<std::uint64_t> reaching(const float* values, std::int64_t size, float least,
                                    std::int64_t limit) {
  std::vector<std::uint64_t> found;
  found.reserve(static_cast<std::size_t>(std::min(size, limit + block)));
  std::int64_t first = 0;
  for (; first < size && std::ssize(found) <= limit; first += block) {
    if (first + block <= size && !any_reaches(values + first, least)) {
      continue;
    }
    for (std::int64_t index = first; index < std::min(size, first + block); ++index) {
      if (values[index] >= least) {
        found.push_back(ordered(values[index], index));
      }
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
  if (!std::isnan(hint)) {
    found = reaching(values, size, hint, limit);
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
