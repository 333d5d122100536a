#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope {

/// One turn of a conversation.
struct ChatMessage {
  std::string role;  ///< system, user, assistant
  std::string content;
};

/// A model's chat template: a program in Jinja, from a file that nobody has checked.
struct ChatTemplate {
  std::string source;
  std::string bos;  ///< text of the token; empty if there is none
  std::string eos;
};

/// What a template is rendered with.
struct ChatRequest {
  std::vector<ChatMessage> messages;
  bool add_generation_prompt = true;  ///< ends where the assistant's answer begins
  /// What strftime_now tells, seconds since 1970, UTC: 26 July 2024, which the templates themselves
  /// write where they know no date, so that the same prompt gives the same tokens every day.
  std::int64_t time = 1721995200;
};

/// What a template may take, beyond what this process holds, while it is rendered.
struct ChatLimits {
  int cpu_ms = 2000;
  int memory_mib = 512;  ///< and 64 bytes for each of the messages
  int output_mib = 16;   ///< and 8 bytes for each of the messages
};

/// The conversation as transformers' apply_chat_template(tokenize=False) writes it, without tools
/// and documents. Differs: strip and trim take ASCII white space only; length, index and slice of a
/// string count bytes, its index is not negative; % of a negative number has its sign; floats have
/// six decimals; `~` writes nothing for none.
/// The template runs in a child process.
/// Throws Error{unsupported} with the filter, function or statement that is not known, the limit
/// that was reached, or the template's own message (raise_exception), and the line.
std::string render_chat(const ChatTemplate& chat_template, const ChatRequest& request,
                        const ChatLimits& limits = {});

}  // namespace kvscope
