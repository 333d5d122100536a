#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvscope {

/// A token that is looked for in the text before anything else.
struct AddedToken {
  std::int32_t id = -1;
  std::string text;
  bool special = false;      ///< only if the caller wants special tokens read
  bool strips_left = false;  ///< takes white space before it along
  bool strips_right = false;
  bool single_word = false;  ///< not inside a word
};

/// Splits text at added tokens: the longest at each place, from left to right.
class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// Plain text (id -1) or a token.
  struct Part {
    std::string_view text;
    std::int32_t id = -1;
  };
  std::vector<Part> split(std::string_view text, bool parse_special) const;
  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  const AddedToken* at(std::string_view text, std::size_t place, bool parse_special) const;

  std::vector<AddedToken> tokens_;                           ///< longest first
  std::array<std::vector<std::size_t>, 256> by_first_byte_;  ///< indices into tokens_
};

/// Added tokens of a GGUF vocabulary: control (type 3) and user-defined (type 4) ones.
std::vector<AddedToken> added_by_type(const std::vector<std::string>& tokens,
                                      const std::vector<std::int64_t>& types);

/// Tokens that end a reply in the families known here, by their text.
bool ends_generation(std::string_view token);

}  // namespace kvscope
