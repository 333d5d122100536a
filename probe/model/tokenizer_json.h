#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checked_json.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope {

/// What stands beside the tokenizer itself.
struct TokenizerSettings {
  std::string bos;                 ///< text of the token; empty = as the tokenizer says
  std::string eos;                 ///< text of the token
  int adds_bos = -1;               ///< 0 or 1; -1 = as the tokenizer says
  std::vector<std::int32_t> ends;  ///< ids that end a reply
  std::string chat_template;
};

/// A tokenizer.json: BPE over bytes or over characters with byte fallback, or unigram. Steps that
/// are not known here are refused by their type.
std::shared_ptr<const Tokenizer> read_tokenizer_json(const nlohmann::json& json,
                                                     const TokenizerSettings& settings,
                                                     int vocabulary, const std::string& where);

}  // namespace kvscope
