#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope {

/// What part of the sequence a token belongs to; the values are those on disk.
enum class Segment : std::uint8_t { chat_template = 0, context = 1, question = 2, generated = 3 };

/// The sequence: ids, RoPE positions, segments and text pieces, prompt and generated alike.
struct TokenTable {
  std::vector<std::int32_t> id;          ///< [tokens]
  std::vector<std::int32_t> position;    ///< [tokens]
  std::vector<Segment> segment;          ///< [tokens]
  std::vector<std::uint8_t> text_bytes;  ///< pieces one after another; may hold invalid UTF-8
  std::vector<std::int64_t> text_end;    ///< [tokens] end of the token's piece in text_bytes
  int prompt_tokens = 0;                 ///< tokens of the prompt, question included
  int context_tokens = 0;  ///< tokens before the question; equals prompt_tokens without one

  int size() const { return static_cast<int>(id.size()); }
  /// Bytes of one token, as the tokenizer wrote them.
  std::string text(int token) const;
  /// Bytes of tokens [first, last).
  std::string text(int first, int last) const;
  /// Tokens whose pieces overlap the first occurrence of `needle` at or after byte `from`;
  /// first == last when absent.
  struct Range {
    int first = 0;
    int last = 0;
  };
  Range find(const std::string& needle, std::int64_t from = 0) const;
  void append(std::int32_t token_id, std::int32_t token_position, Segment token_segment,
              const std::string& piece);
};

/// What decisions and captures of the same prompt on the same model share: 16 hex digits over the
/// model's hash, and the ids and positions of the first `prompt_tokens` tokens.
std::string sequence_hash(const std::string& model_hash, const TokenTable& tokens);

}  // namespace kvscope
