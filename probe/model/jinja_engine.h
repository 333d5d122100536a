#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "chat_template.h"

namespace kvscope {

/// A template that cannot be parsed or run.
class JinjaError : public std::runtime_error {
 public:
  JinjaError(const std::string& message, std::int64_t byte)
      : std::runtime_error(message), byte_(byte) {}
  /// Where in the source; -1 if it is not known.
  std::int64_t byte() const { return byte_; }

 private:
  std::int64_t byte_;
};

/// Parses a template. Recursion follows its nesting: call check_template first.
/// Throws JinjaError.
void parse_jinja(const std::string& source);

/// Runs a template in this process, without any limit of time and memory: render_chat is for those
/// that nobody has checked. Throws JinjaError.
std::string run_jinja(const ChatTemplate& chat_template, const ChatRequest& request);

}  // namespace kvscope
