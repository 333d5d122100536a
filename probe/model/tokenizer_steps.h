#pragma once

#include <string>
#include <vector>

#include "checked_json.h"
#include "sentencepiece.h"

namespace kvscope {

/// The normalizer and pre_tokenizer of a tokenizer.json, put together.
struct TokenizerSteps {
  bool nfc = false;
  bool bytes = false;        ///< byte-level alphabet
  bool space_marks = false;  ///< spaces become U+2581
  SpacePrefix prefix = SpacePrefix::none;
  bool splits_words = false;          ///< nothing is joined across a space mark
  std::vector<std::string> patterns;  ///< splits, in order
};

/// Throws Error{unsupported} naming a step or an option that is not known here.
TokenizerSteps read_tokenizer_steps(const JsonFields& tokenizer);

}  // namespace kvscope
