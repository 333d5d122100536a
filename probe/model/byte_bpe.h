#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "added_tokens.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope {

/// What a byte-level BPE tokenizer is made of, whatever file it came from.
struct ByteBpeTables {
  std::string pre_tokenizer;        ///< gpt2, smollm, llama-bpe, qwen2
  std::string where;                ///< for errors
  std::vector<std::string> tokens;  ///< in the printable byte alphabet; special ones as written
  std::vector<std::string> merges;  ///< "left right", by rank
  std::vector<std::int64_t> types;  ///< GGUF token types; 3 control, 4 user defined; may be empty
  std::int32_t bos = -1;
  std::int32_t eos = -1;
  std::vector<AddedToken> added;      ///< empty = the control and user-defined ones of `types`
  std::vector<std::string> patterns;  ///< instead of a name: regular expressions of tokenizer.json
  bool ignores_merges = false;        ///< with patterns: whole words that are tokens stay whole
  bool nfc = false;                   ///< text is put into Unicode normalisation form C first
  std::vector<std::int32_t> ends;     ///< further tokens that end a reply
  bool add_bos = false;
  std::string chat_template;
};

/// Throws Error{unsupported} for an unknown pre-tokenizer (a wrong one gives other tokens silently)
/// and Error{corrupt_file} for merges of unknown tokens.
std::shared_ptr<const Tokenizer> make_byte_bpe(ByteBpeTables tables);

}  // namespace kvscope
