#pragma once

#include <string>

#include "chat_template.h"

namespace kvscope {

/// What a chat template makes of one message of the user that the assistant is to answer.
struct ChatForm {
  std::string before;     ///< from the beginning, BOS included, to the message
  std::string after;      ///< from the message to where the answer begins
  std::size_t begin = 0;  ///< the bytes of the message that are written: white space at its ends
  std::size_t end = 0;    ///< may be dropped
};

/// Renders the template with this message and finds the message in it. Throws Error{unsupported} as
/// render_chat does, and where the template writes the message more than once or changed.
ChatForm chat_form(const ChatTemplate& chat_template, const std::string& message,
                   const ChatLimits& limits = {});

}  // namespace kvscope
