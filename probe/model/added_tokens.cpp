#include "added_tokens.h"

#include <algorithm>

namespace kvscope {
namespace {

bool is_space(char character) {
  return character == ' ' || (character >= '\t' && character <= '\r');
}

/// ASCII letters, digits, underscore, and any byte of a longer character.
bool is_word(char character) {
  const auto byte = static_cast<unsigned char>(character);
  return byte >= 0x80 || byte == '_' || (byte >= '0' && byte <= '9') ||
         ((byte | 32) >= 'a' && (byte | 32) <= 'z');
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.text.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.text.size() > b.text.size();
  });
  for (std::size_t index = 0; index < tokens_.size(); ++index) {
    by_first_byte_[static_cast<unsigned char>(tokens_[index].text[0])].push_back(index);
  }
}

const AddedToken* AddedTokens::at(std::string_view text, std::size_t place,
                                  bool parse_special) const {
  for (const std::size_t index : by_first_byte_[static_cast<unsigned char>(text[place])]) {
    const AddedToken& token = tokens_[index];
    if ((token.special && !parse_special) ||
        text.compare(place, token.text.size(), token.text) != 0) {
      continue;
    }
    const std::size_t end = place + token.text.size();
    const bool inside =
        (place > 0 && is_word(text[place - 1])) || (end < text.size() && is_word(text[end]));
    if (!token.single_word || !inside) {
      return &token;
    }
  }
  return nullptr;
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, bool parse_special) const {
  std::vector<Part> parts;
  std::size_t plain = 0;
  for (std::size_t place = 0; place < text.size();) {
    const AddedToken* token = at(text, place, parse_special);
    if (token == nullptr) {
      ++place;
      continue;
    }
    std::size_t before = place;
    while (token->strips_left && before > plain && is_space(text[before - 1])) {
      --before;
    }
    if (before > plain) {
      parts.push_back({text.substr(plain, before - plain), -1});
    }
    parts.push_back({text.substr(place, token->text.size()), token->id});
    place += token->text.size();
    while (token->strips_right && place < text.size() && is_space(text[place])) {
      ++place;
    }
    plain = place;
  }
  if (plain < text.size()) {
    parts.push_back({text.substr(plain), -1});
  }
  return parts;
}

std::vector<AddedToken> added_by_type(const std::vector<std::string>& tokens,
                                      const std::vector<std::int64_t>& types) {
  constexpr std::int64_t control = 3;
  constexpr std::int64_t user_defined = 4;
  std::vector<AddedToken> added;
  for (std::size_t token = 0; token < std::min(tokens.size(), types.size()); ++token) {
    if (types[token] == control || types[token] == user_defined) {
      AddedToken entry;
      entry.id = static_cast<std::int32_t>(token);
      entry.text = tokens[token];
      entry.special = types[token] == control;
      added.push_back(std::move(entry));
    }
  }
  return added;
}

bool ends_generation(std::string_view token) {
  constexpr std::string_view ends[] = {"<|im_end|>",      "<|endoftext|>", "<|eot_id|>",
                                       "<|end_of_text|>", "</s>",          "<|end|>",
                                       "<end_of_turn>",   "<eos>"};
  return std::find(std::begin(ends), std::end(ends), token) != std::end(ends);
}

}  // namespace kvscope
