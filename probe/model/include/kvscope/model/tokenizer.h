#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kvscope {

/// Text to token ids and back, as the model's own tokenizer does it.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int vocabulary() const = 0;
  /// Ids of `text`. Special tokens written out in the text (e.g. <|im_start|>) become their ids
  /// only if `parse_special`. BOS is added only if `add_bos` and the file asks for it.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool parse_special = false,
                                           bool add_bos = true) const = 0;
  /// Bytes of one token; may be an incomplete UTF-8 sequence. Special tokens give their written
  /// form.
  virtual std::string piece(std::int32_t id) const = 0;
  /// The pieces one after another, less the space that the tokenizer put before the first word.
  std::string decode(const std::vector<std::int32_t>& ids) const;
  virtual std::int32_t bos() const = 0;  ///< -1 if none
  virtual std::int32_t eos() const = 0;  ///< -1 if none
  virtual bool is_special(std::int32_t id) const = 0;
  virtual bool is_end_of_generation(std::int32_t id) const = 0;
  /// The model's chat template as stored; empty if none.
  virtual const std::string& chat_template() const = 0;
  /// Whether encoding puts a space before the text, which decoding takes away again.
  virtual bool puts_space_first() const { return false; }
};

/// Stands in where a model has no tokenizer that can be read: pieces are numbers in brackets, such
/// as
/// "[17]", and encode throws Error{missing_data}, for which there is --token-ids.
std::shared_ptr<const Tokenizer> number_tokenizer(int vocabulary);

/// Text from tokens that arrive one at a time: never part of a character, whose bytes may come from
/// several tokens.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  /// The text that is complete with this token; bytes that can no longer become a character are let
  /// through as they are.
  std::string add(std::int32_t id);
  /// What is still held back.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string held_;
  bool first_ = true;
};

}  // namespace kvscope
