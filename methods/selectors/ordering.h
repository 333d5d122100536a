#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace kvscope::detail {

/// A score and its place in one word, such that smaller words are better: higher scores first, and
/// of equal scores (-0 equals 0) the lower index. Not for NaN. `index` below 2^32.
inline std::uint64_t rank_word(float score, std::uint64_t index) {
  const float plain = score + 0.0F;  // -0 becomes 0
  std::uint32_t bits = 0;
  std::memcpy(&bits, &plain, sizeof bits);
  const std::uint32_t ascending = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return (std::uint64_t{~ascending} << 32) | index;
}

inline std::uint64_t index_of(std::uint64_t word) {
  return word & 0xFFFFFFFFU;
}

/// Moves the `count` best words to the front, in no order. O(words).
inline void partition_best(std::vector<std::uint64_t>& words, std::size_t count) {
  if (count > 0 && count < words.size()) {
    std::nth_element(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(count),
                     words.end());
  }
}

/// Tokens of the `slots` best words, best first.
inline std::vector<int> best_tokens(std::vector<std::uint64_t> words, int slots) {
  const std::size_t count = std::min(words.size(), static_cast<std::size_t>(std::max(slots, 0)));
  partition_best(words, count);
  words.resize(count);
  std::sort(words.begin(), words.end());
  std::vector<int> tokens;
  tokens.reserve(count);
  for (const std::uint64_t word : words) {
    tokens.push_back(static_cast<int>(index_of(word)));
  }
  return tokens;
}

}  // namespace kvscope::detail
