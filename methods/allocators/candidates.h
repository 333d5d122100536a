#pragma once

#include <cstdint>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/methods/pieces.h"
#include "selectors/ordering.h"

namespace kvscope::detail {

/// Rank words of the unprotected tokens of one KV head, which starts at `first` in `plane`; index =
/// `offset` + token.
inline std::vector<std::uint64_t> head_words(const float* scores, const Protection& protection,
                                             std::uint64_t offset) {
  std::vector<std::uint64_t> words;
  const int tokens = protection.tokens();
  words.reserve(static_cast<std::size_t>(tokens - protection.count));
  for (int token = 0; token < tokens; ++token) {
    if (!protection.covers(token)) {
      words.push_back(rank_word(scores[token], offset + static_cast<std::uint64_t>(token)));
    }
  }
  return words;
}

/// Adds one slot to the head of each word; a head spans `tokens` indices.
inline void count_heads(const std::vector<std::uint64_t>& words, std::size_t count, int tokens,
                        std::vector<int>& slots) {
  for (std::size_t word = 0; word < count; ++word) {
    ++slots[index_of(words[word]) / static_cast<std::uint64_t>(tokens)];
  }
}

/// Cells of a pool are numbered with 32 bits.
inline void check_pool_size(std::uint64_t cells) {
  KVSCOPE_CHECK(cells < (std::uint64_t{1} << 32), ErrorCode::unsupported,
                "a pool of slots covers at most 2^32 cells", "allocator",
                "use scope=layer, or the uniform allocator");
}

}  // namespace kvscope::detail
