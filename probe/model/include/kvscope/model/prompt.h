#pragma once

#include <string>

#include "kvscope/core/tokens.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope {

/// A prompt as the user gives it.
struct PromptRequest {
  std::string text;      ///< context
  std::string question;  ///< follows the context; segment 2
  bool chat = false;     ///< wrap in the model's own chat template
};

/// Token ids, positions, segments and pieces of a prompt; context_tokens is where the question
/// begins (template tokens after the context belong to the question side). Context, question and
/// template parts are tokenized apart, so that the cut is a token boundary. The template is
/// rendered with one message of the user, add_generation_prompt and the date 26 July 2024, in a
/// child process. Throws Error{usage} on an empty prompt, Error{unsupported} naming what the
/// template asks for and is not known.
TokenTable build_prompt(const Tokenizer& tokenizer, const PromptRequest& request);

/// From ids in a file of integers separated by white space (--token-ids).
TokenTable read_token_ids(const std::string& path, const Tokenizer& tokenizer);

}  // namespace kvscope
