#include "registry/text.h"

#include <fmt/format.h>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) {
    return "";
  }
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

void add_item(PieceText& piece, const std::string& item, const std::string& text) {
  const std::size_t equals = item.find('=');
  if (equals == std::string::npos) {
    KVSCOPE_CHECK(!item.empty() && !piece.parameters.empty(), ErrorCode::usage,
                  fmt::format("'{}' in '{}' is not name=value", item, text), "method text",
                  "write piece:name=value,name=value");
    piece.parameters.back().second.push_back(item);
    return;
  }
  const std::string name = trimmed(item.substr(0, equals));
  const std::string value = trimmed(item.substr(equals + 1));
  KVSCOPE_CHECK(!name.empty() && !value.empty(), ErrorCode::usage,
                fmt::format("'{}' in '{}' lacks a name or a value", item, text), "method text",
                "write piece:name=value,name=value");
  for (const auto& [known, values] : piece.parameters) {
    KVSCOPE_CHECK(known != name, ErrorCode::usage,
                  fmt::format("parameter '{}' of '{}' is given twice", name, piece.name),
                  "method text", "give it once; several values are a list: name=1,2,3");
  }
  piece.parameters.emplace_back(name, std::vector<std::string>{value});
}

}  // namespace

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  while (true) {
    const std::size_t end = text.find(separator, start);
    parts.push_back(trimmed(text.substr(start, end - start)));
    if (end == std::string::npos) {
      return parts;
    }
    start = end + 1;
  }
}

std::vector<PieceText> read_pieces(const std::string& text) {
  std::vector<PieceText> pieces;
  for (const std::string& part : split(text, '|')) {
    const std::size_t colon = part.find(':');
    PieceText piece;
    piece.name = trimmed(part.substr(0, colon));
    KVSCOPE_CHECK(!piece.name.empty(), ErrorCode::usage,
                  fmt::format("the method text '{}' has a piece without a name", text),
                  "method text", "write e.g. snapkv:window=32 | adakv; see kvscope methods");
    if (colon != std::string::npos) {
      for (const std::string& item : split(part.substr(colon + 1), ',')) {
        add_item(piece, item, part);
      }
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

std::vector<std::map<std::string, std::string>> expand(const PieceText& piece) {
  std::vector<std::map<std::string, std::string>> all(1);
  for (const auto& [name, values] : piece.parameters) {
    std::vector<std::map<std::string, std::string>> next;
    for (const auto& assignment : all) {
      for (const std::string& value : values) {
        next.push_back(assignment);
        next.back()[name] = value;
      }
    }
    all = std::move(next);
  }
  return all;
}

}  // namespace kvscope::detail
