#include "kvscope/core/tokens.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvscope {

std::string TokenTable::text(int token) const {
  return text(token, token + 1);
}

std::string TokenTable::text(int first, int last) const {
  first = std::clamp(first, 0, size());
  last = std::clamp(last, first, size());
  if (first == last) {
    return {};
  }
  const std::int64_t begin = first == 0 ? 0 : text_end[static_cast<std::size_t>(first) - 1];
  const std::int64_t end = text_end[static_cast<std::size_t>(last) - 1];
  return {text_bytes.begin() + begin, text_bytes.begin() + end};
}

TokenTable::Range TokenTable::find(const std::string& needle, std::int64_t from) const {
  const auto end = text_bytes.end();
  if (needle.empty() || from < 0 || from > static_cast<std::int64_t>(text_bytes.size())) {
    return {};
  }
  const auto found = std::search(text_bytes.begin() + from, end, needle.begin(), needle.end(),
                                 [](std::uint8_t byte, char character) {
                                   return byte == static_cast<std::uint8_t>(character);
                                 });
  if (found == end) {
    return {};
  }
  const std::int64_t first_byte = found - text_bytes.begin();
  const std::int64_t last_byte = first_byte + static_cast<std::int64_t>(needle.size());
  const auto first = std::upper_bound(text_end.begin(), text_end.end(), first_byte);
  const auto last = std::lower_bound(text_end.begin(), text_end.end(), last_byte);
  return {static_cast<int>(first - text_end.begin()),
          static_cast<int>(last - text_end.begin()) + 1};
}

void TokenTable::append(std::int32_t token_id, std::int32_t token_position, Segment token_segment,
                        const std::string& piece) {
  id.push_back(token_id);
  position.push_back(token_position);
  segment.push_back(token_segment);
  text_bytes.insert(text_bytes.end(), piece.begin(), piece.end());
  text_end.push_back(static_cast<std::int64_t>(text_bytes.size()));
}

std::string sequence_hash(const std::string& model_hash, const TokenTable& tokens) {
  std::uint64_t state = 14695981039346656037u;  // FNV-1a, 64 bits
  const auto mix = [&state](std::uint64_t value, int bytes) {
    for (int byte = 0; byte < bytes; ++byte) {
      state = (state ^ ((value >> (8 * byte)) & 0xFF)) * 1099511628211u;
    }
  };
  for (const char character : model_hash) {
    mix(static_cast<std::uint8_t>(character), 1);
  }
  for (int token = 0; token < std::min(tokens.prompt_tokens, tokens.size()); ++token) {
    mix(static_cast<std::uint32_t>(tokens.id[static_cast<std::size_t>(token)]), 4);
    mix(static_cast<std::uint32_t>(tokens.position[static_cast<std::size_t>(token)]), 4);
  }
  return fmt::format("{:016x}", state);
}

}  // namespace kvscope
