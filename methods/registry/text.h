#pragma once

#include <map>
#include <string>
#include <vector>

namespace kvscope::detail {

/// Whether canonical text spells a parameter out even at its default: forms and variants of a
/// method are different methods, and the default may change when another one arrives.
inline bool always_written(const std::string& parameter) {
  return parameter == "form" || parameter == "variant";
}

/// Parts between separators, blanks at their ends removed.
std::vector<std::string> split(const std::string& text, char separator);

/// One piece as written: its name, and each parameter's values in order.
struct PieceText {
  std::string name;
  std::vector<std::pair<std::string, std::vector<std::string>>> parameters;
};

/// Pieces of a method text (DESIGN section 4). Throws Error{usage}.
std::vector<PieceText> read_pieces(const std::string& text);

/// One assignment for each combination of list values, the last parameter running fastest.
std::vector<std::map<std::string, std::string>> expand(const PieceText& piece);

}  // namespace kvscope::detail
