#include "kvscope/scene/token_class.h"

#include <algorithm>
#include <cctype>

#include "kvscope/scene/fate_counts.h"

namespace kvscope {
namespace {

constexpr int sinks = 4;

bool is_space(char character) {
  return std::isspace(static_cast<unsigned char>(character)) != 0;
}
bool is_digit(char character) {
  return character >= '0' && character <= '9';
}
bool is_sign(char character) {
  return std::ispunct(static_cast<unsigned char>(character)) != 0;
}

}  // namespace

const char* token_class_name(TokenClass kind) {
  constexpr std::array<const char*, token_classes> names = {
      "sink", "template", "question", "white space", "digit", "punctuation", "word"};
  return names[static_cast<std::size_t>(kind)];
}

TokenClass token_class(const TokenTable& tokens, int token) {
  if (token < sinks) {
    return TokenClass::sink;
  }
  const Segment segment = tokens.segment[static_cast<std::size_t>(token)];
  if (segment == Segment::chat_template) {
    return TokenClass::special;
  }
  if (segment == Segment::question) {
    return TokenClass::question;
  }
  const std::string text = tokens.text(token);
  if (std::all_of(text.begin(), text.end(), is_space)) {
    return TokenClass::whitespace;
  }
  if (std::any_of(text.begin(), text.end(), is_digit)) {
    return TokenClass::digit;
  }
  const bool signs = std::all_of(text.begin(), text.end(), [](char character) {
    return is_space(character) || is_sign(character);
  });
  return signs ? TokenClass::punctuation : TokenClass::word;
}

std::vector<TokenClass> classify(const TokenTable& tokens) {
  std::vector<TokenClass> kinds;
  kinds.reserve(static_cast<std::size_t>(tokens.size()));
  for (int token = 0; token < tokens.size(); ++token) {
    kinds.push_back(token_class(tokens, token));
  }
  return kinds;
}

std::array<ClassShare, token_classes> class_shares(const TokenTable& tokens,
                                                   const Decision& decision) {
  std::array<ClassShare, token_classes> shares{};
  const std::vector<int> held = heads_holding(decision);
  std::int64_t slots = 0;
  for (int token = 0; token < std::min(decision.tokens, tokens.size()); ++token) {
    ClassShare& share = shares[static_cast<std::size_t>(token_class(tokens, token))];
    ++share.tokens;
    share.slots += held[static_cast<std::size_t>(token)];
    slots += held[static_cast<std::size_t>(token)];
  }
  const double heads = static_cast<double>(decision.layers.size()) * decision.kv_heads;
  for (ClassShare& share : shares) {
    const auto count = static_cast<double>(share.tokens);
    share.of_text = decision.tokens > 0 ? count / decision.tokens : 0;
    share.of_slots = slots > 0 ? static_cast<double>(share.slots) / static_cast<double>(slots) : 0;
    share.kept = count > 0 ? static_cast<double>(share.slots) / (count * heads) : 0;
  }
  return shares;
}

}  // namespace kvscope
