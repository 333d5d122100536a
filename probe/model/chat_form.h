#pragma once

#include <string>

namespace kvscope {

/// What a chat template puts around one message of the user when the assistant is to answer.
struct ChatForm {
  std::string name;  ///< ChatML, Llama-3, ...
  bool begins_with_bos = false;
  std::string before;  ///< from the beginning (after BOS) to the message
  std::string after;   ///< from the message to where the answer begins
  bool trims = false;  ///< white space around the message is dropped
};

/// The form that a model's own template (Jinja) has, recognised by its marks; the words in it
/// (system turn, line ends) are read from the template. Where a template would write today's date
/// its own fallback date is taken, so that the same prompt gives the same tokens every day. Throws
/// Error{unsupported} naming the form if it is not one of these families'.
ChatForm chat_form(const std::string& chat_template);

}  // namespace kvscope
