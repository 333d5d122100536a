#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope::report {

/// Rows of cells printed in columns as wide as their widest cell, two spaces apart.
class TextTable {
 public:
  /// One letter per column of `headings`: 'l' or 'r' alignment.
  TextTable(std::vector<std::string> headings, std::string alignment);
  void add(std::vector<std::string> cells);
  std::string text() const;

 private:
  std::string line(const std::vector<std::string>& cells, const std::vector<int>& widths) const;
  std::string alignment_;
  std::vector<std::vector<std::string>> rows_;
};

/// "1,234,567".
std::string grouped(std::int64_t number);
/// Fixed digits; "–" for NaN.
std::string number(double value, int digits = 4);
/// 0.2 as "20.0 %"; "–" for NaN.
std::string percent(double share);
/// "1.5 MiB".
std::string bytes_text(std::int64_t bytes);
/// "6:snapkv|nearest_key@0.2": how tables name a method: its pieces, without their parameters, as
/// far as 28 characters go.
std::string short_name(int index, const std::string& method, const std::string& keep);

}  // namespace kvscope::report
