#include "text_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "printable.h"

namespace kvscope::report {

TextTable::TextTable(std::vector<std::string> headings, std::string alignment)
    : alignment_(std::move(alignment)) {
  rows_.push_back(std::move(headings));
}

void TextTable::add(std::vector<std::string> cells) {
  rows_.push_back(std::move(cells));
}

std::string TextTable::line(const std::vector<std::string>& cells,
                            const std::vector<int>& widths) const {
  std::string line;
  for (std::size_t column = 0; column < cells.size(); ++column) {
    const std::string space(static_cast<std::size_t>(widths[column] - display_width(cells[column])),
                            ' ');
    line += column == 0 ? " " : "  ";
    line += alignment_[column] == 'r' ? space + cells[column] : cells[column] + space;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::string TextTable::text() const {
  std::vector<int> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t column = 0; column < row.size(); ++column) {
      widths[column] = std::max(widths[column], display_width(row[column]));
    }
  }
  std::string text;
  for (const auto& row : rows_) {
    text += line(row, widths);
  }
  return text;
}

std::string grouped(std::int64_t number) {
  std::string digits = fmt::format("{}", number);
  const std::size_t first = digits.front() == '-' ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string number(double value, int digits) {
  return std::isnan(value) ? "–" : fmt::format("{:.{}f}", value, digits);
}

std::string percent(double share) {
  return std::isnan(share) ? "–" : fmt::format("{:.1f} %", 100 * share);
}

std::string bytes_text(std::int64_t bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(units)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

std::string short_name(int index, const std::string& method, const std::string& keep) {
  std::string pieces;
  bool parameters = false;
  for (const char character : method) {
    parameters = character != '|' && (parameters || character == ':');
    pieces += parameters || character == ' ' ? "" : std::string(1, character);
  }
  constexpr std::size_t longest = 28;
  return fmt::format("{}:{}@{}", index + 1, pieces.substr(0, longest), keep);
}

}  // namespace kvscope::report
