#include "chat_template.h"

#include <fmt/format.h>

#include <new>

#include "child_process.h"
#include "jinja_engine.h"
#include "kvscope/core/error.h"
#include "template_check.h"

namespace kvscope {
namespace {

constexpr const char* render_yourself =
    "give the text already formatted, without --chat, or its tokens with --token-ids "
    "(transformers: tokenizer.apply_chat_template)";

// First byte of the child's answer: the text, or the error's byte, a line end and its message.
constexpr char text_mark = 't';
constexpr char error_mark = 'e';

std::string run(const ChatTemplate& chat_template, const ChatRequest& request) {
  try {
    return text_mark + run_jinja(chat_template, request);
  } catch (const JinjaError& error) {
    return fmt::format("{}{}\n{}", error_mark, error.byte(), error.what());
  }
}

[[noreturn]] void refuse(const std::string& source, const std::string& answer) {
  const std::size_t end = answer.find('\n');
  const std::string message = answer.substr(end + 1);
  const std::string raised = "Jinja Exception: ";
  throw Error(ErrorCode::unsupported,
              message.starts_with(raised)
                  ? fmt::format("the model's chat template refuses these messages: {}",
                                message.substr(raised.size()))
                  : fmt::format("the model's chat template cannot be rendered: {}", message),
              template_place(source, std::stoll(answer.substr(1, end - 1))), render_yourself);
}

std::string why(ChildOutcome outcome, const ChatLimits& limits) {
  switch (outcome) {
    case ChildOutcome::out_of_memory:
      return fmt::format("it takes more than {} MiB", limits.memory_mib);
    case ChildOutcome::out_of_time:
      return fmt::format("it takes more than {} s; does it end?", limits.cpu_ms / 1000.0);
    case ChildOutcome::too_much_output:
      return fmt::format("it writes more than {} MiB", limits.output_mib);
    default:
      return "it recurses without end, or crashes the renderer";
  }
}

}  // namespace

std::string render_chat(const ChatTemplate& chat_template, const ChatRequest& request,
                        const ChatLimits& limits) {
  check_template(chat_template.source);
  std::int64_t content = 0;
  for (const ChatMessage& message : request.messages) {
    content += static_cast<std::int64_t>(message.content.size());
  }
  ChildLimits child;
  child.cpu_ms = limits.cpu_ms;
  child.memory_bytes = (std::int64_t{limits.memory_mib} << 20) + 64 * content;
  child.output_bytes = (std::int64_t{limits.output_mib} << 20) + 8 * content;
  const ChildResult result = run_in_child(child, [&] { return run(chat_template, request); });
  KVSCOPE_CHECK(
      result.outcome == ChildOutcome::done, ErrorCode::unsupported,
      fmt::format("the model's chat template cannot be rendered: {}", why(result.outcome, limits)),
      "chat template", render_yourself);
  if (result.text.empty() || result.text.front() != text_mark) {
    refuse(chat_template.source, result.text);
  }
  return result.text.substr(1);
}

}  // namespace kvscope
