#include "chat_form.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

// In the message's place it shows where the template writes the message, and by the white space
// that is left around it which ends are stripped.
constexpr std::string_view stand_in = "kvscope-0b7d3c52-message";
constexpr std::string_view space_before = "\t \t ";
constexpr std::string_view space_after = " \t\t ";

constexpr std::string_view ascii_space = " \t\n\r\v\f";

/// White space in Python's sense beyond ASCII's, UTF-8.
constexpr std::array<std::string_view, 23> other_space = {
    "\x1c",         "\x1d",         "\x1e",         "\x1f",         "\xC2\x85",     "\xC2\xA0",
    "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81", "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84",
    "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A",
    "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};

/// Bytes of the white space character at the front (or back) of `text`; 0 if there is none.
std::size_t space_at(std::string_view text, bool front) {
  if (text.empty()) {
    return 0;
  }
  if (ascii_space.find(front ? text.front() : text.back()) != std::string_view::npos) {
    return 1;
  }
  for (const std::string_view space : other_space) {
    if (front ? text.starts_with(space) : text.ends_with(space)) {
      return space.size();
    }
  }
  return 0;
}

/// What a template does around a message whatever the message says.
struct Frame {
  std::string before;
  std::string after;
  bool strips_begin = true;
  bool strips_end = true;
};

std::optional<Frame> frame_of(const ChatTemplate& chat_template, const ChatLimits& limits) {
  std::string message(space_before);
  message.append(stand_in).append(space_after);
  const std::string text = render_chat(chat_template, {{{"user", message}}}, limits);
  const std::size_t at = text.find(stand_in);
  if (at == std::string::npos || at != text.rfind(stand_in)) {
    return {};
  }
  Frame frame{text.substr(0, at), text.substr(at + stand_in.size())};
  if (frame.before.ends_with(space_before)) {
    frame.strips_begin = false;
    frame.before.resize(frame.before.size() - space_before.size());
  }
  if (frame.after.starts_with(space_after)) {
    frame.strips_end = false;
    frame.after.erase(0, space_after.size());
  }
  return frame;
}

/// The part of `message` from the first to the last character that is no white space.
ChatForm core_of(const std::string& message) {
  ChatForm form;
  form.end = message.size();
  const std::string_view view = message;
  while (std::size_t size = space_at(view.substr(form.begin), true)) {
    form.begin += size;
  }
  while (std::size_t size = space_at(view.substr(form.begin, form.end - form.begin), false)) {
    form.end -= size;
  }
  return form;
}

/// Where the message stands in `text` if the template strips the ends that the frame says.
std::optional<ChatForm> placed(const std::string& text, const Frame& frame,
                               const std::string& message) {
  const std::size_t around = frame.before.size() + frame.after.size();
  if (text.size() < around || !text.starts_with(frame.before) || !text.ends_with(frame.after)) {
    return {};
  }
  const std::string written = text.substr(frame.before.size(), text.size() - around);
  ChatForm form = core_of(message);
  // The renderer strips ASCII white space only; Python, which the templates were written for, all.
  const std::size_t at = message.find(written);
  if (form.begin == form.end) {
    form.begin = form.end = std::min(form.begin, at + written.size());
  }
  if (at == std::string::npos || at > form.begin || at + written.size() < form.end) {
    return {};
  }
  form.begin = frame.strips_begin ? form.begin : at;
  form.end = frame.strips_end ? form.end : at + written.size();
  form.before = frame.before;
  form.after = frame.after;
  return form;
}

}  // namespace

ChatForm chat_form(const ChatTemplate& chat_template, const std::string& message,
                   const ChatLimits& limits) {
  const std::string text = render_chat(chat_template, {{{"user", message}}}, limits);
  if (const auto frame = frame_of(chat_template, limits)) {
    if (auto form = placed(text, *frame, message)) {
      return *form;
    }
  }
  // The template writes something else around this message than around another: it is found by its
  // own text, if that stands there once.
  ChatForm form = core_of(message);
  const std::string core = message.substr(form.begin, form.end - form.begin);
  const std::size_t at = text.find(core);
  KVSCOPE_CHECK(
      !core.empty() && at != std::string::npos && at == text.rfind(core), ErrorCode::unsupported,
      "the model's chat template changes the message, or writes it more than once", "chat template",
      "give the text already formatted, without --chat, or its tokens with --token-ids");
  form.before = text.substr(0, at);
  form.after = text.substr(at + core.size());
  return form;
}

}  // namespace kvscope
