#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// What a token is, for the question what a budget buys (specs/viewer.md, story 16). A token
/// belongs to the first class that fits, in this order.
enum class TokenClass : std::uint8_t {
  sink,         ///< one of the first 4 tokens
  special,      ///< of the chat template
  question,     ///< of the question
  whitespace,   ///< nothing but white space
  digit,        ///< holds a digit
  punctuation,  ///< ASCII signs, with or without white space
  word,         ///< anything else
};
inline constexpr int token_classes = 7;

const char* token_class_name(TokenClass kind);
TokenClass token_class(const TokenTable& tokens, int token);
/// Class of every token: [tokens].
std::vector<TokenClass> classify(const TokenTable& tokens);

/// One class's part of the text and of the slots.
struct ClassShare {
  std::int64_t tokens = 0;  ///< in the text, those the decision covers
  std::int64_t slots = 0;   ///< held over all layers and KV heads
  double of_text = 0;       ///< share of the tokens
  double of_slots = 0;      ///< share of the slots
  double kept = 0;          ///< share of the class's cells that hold a slot
};
/// By class; the shares of all classes sum to 1.
std::array<ClassShare, token_classes> class_shares(const TokenTable& tokens,
                                                   const Decision& decision);

}  // namespace kvscope
