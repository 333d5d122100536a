#pragma once

#include <memory>
#include <string>

#include "kvscope/model/tokenizer.h"

namespace kvscope {

/// The tokenizer of a model folder: tokenizer.json, else tokenizer.model; special tokens, BOS rule
/// and chat template from tokenizer_config.json, generation_config.json and chat_template.jinja.
/// `vocabulary` is the number of embedding rows. Throws Error{unsupported} naming a step of the
/// pipeline that is not known here, Error{corrupt_file} for tables that contradict themselves.
std::shared_ptr<const Tokenizer> read_hf_tokenizer(const std::string& folder, int vocabulary);

}  // namespace kvscope
