#include "printable.h"

#include <fmt/format.h>

#include <cstdint>

#include "kvscope/report/formats.h"

namespace kvscope::report {
namespace {

struct Character {
  std::uint32_t code = 0;
  std::size_t length = 0;
};

Character decode(const std::string& bytes, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
  const std::uint8_t first = byte(at);
  if (first < 0x80) {
    return {first, 1};
  }
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || at + length > bytes.size()) {
    return {};
  }
  std::uint32_t code = first & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0u) != 0x80) {
      return {};
    }
    code = code << 6 | (byte(at + i) & 0x3Fu);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  if (overlong || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF) {
    return {};
  }
  return {code, length};
}

bool is_wide(std::uint32_t code) {
  return (code >= 0x1100 && code <= 0x115F) || (code >= 0x2E80 && code <= 0xA4CF) ||
         (code >= 0xAC00 && code <= 0xD7A3) || (code >= 0xF900 && code <= 0xFAFF) ||
         (code >= 0xFE30 && code <= 0xFE6F) || (code >= 0xFF00 && code <= 0xFF60) ||
         (code >= 0x1F300 && code <= 0x1FAFF) || (code >= 0x20000 && code <= 0x3FFFD);
}

bool is_zero_width(std::uint32_t code) {
  return (code >= 0x0300 && code <= 0x036F) || (code >= 0x200B && code <= 0x200D) ||
         (code >= 0xFE00 && code <= 0xFE0F);
}

/// Characters that turn or break the line they stand in (Unicode's bidirectional controls and
/// separators).
bool turns_lines(std::uint32_t code) {
  return code == 0x061C || code == 0x200E || code == 0x200F || (code >= 0x2028 && code <= 0x202E) ||
         (code >= 0x2066 && code <= 0x2069);
}

int width_of(std::uint32_t code) {
  return is_zero_width(code) ? 0 : is_wide(code) ? 2 : 1;
}

}  // namespace

std::size_t utf8_length(const std::string& bytes, std::size_t at) {
  return decode(bytes, at).length;
}

int display_width(const std::string& text) {
  int width = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    width += character.length == 0 ? 1 : width_of(character.code);
    at += character.length == 0 ? 1 : character.length;
  }
  return width;
}

std::string fit(const std::string& text, int width) {
  const int full = display_width(text);
  if (full <= width) {
    return text + std::string(static_cast<std::size_t>(width - full), ' ');
  }
  std::string cut;
  int used = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    const std::size_t length = character.length == 0 ? 1 : character.length;
    const int columns = character.length == 0 ? 1 : width_of(character.code);
    if (used + columns > width - 1) {
      break;
    }
    cut.append(text, at, length);
    used += columns;
    at += length;
  }
  return cut + "…" + std::string(static_cast<std::size_t>(width - 1 - used), ' ');
}

std::string html_escape(const std::string& text) {
  std::string escaped;
  for (const char character : text) {
    switch (character) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += character;
    }
  }
  return escaped;
}

}  // namespace kvscope::report

namespace kvscope {

std::string printable(const std::string& bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size();) {
    const report::Character character = report::decode(bytes, at);
    const bool control = character.code < 0x20 ||
                         (character.code >= 0x7F && character.code < 0xA0) ||
                         report::turns_lines(character.code);
    if (character.length > 0 && !control) {
      text.append(bytes, at, character.length);
      at += character.length;
      continue;
    }
    const char byte = bytes[at];
    text += byte == '\n'   ? "\\n"
            : byte == '\t' ? "\\t"
            : byte == '\r' ? "\\r"
                           : fmt::format("\\x{:02X}", static_cast<std::uint8_t>(byte));
    at += 1;
  }
  return text;
}

}  // namespace kvscope
