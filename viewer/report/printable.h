#pragma once

#include <cstddef>
#include <string>

namespace kvscope::report {

/// Length of the UTF-8 character at `at`, 0 if the bytes there are none (overlong and surrogates
/// too).
std::size_t utf8_length(const std::string& bytes, std::size_t at);

/// Columns a printable text takes in a terminal; CJK and emoji take two.
int display_width(const std::string& text);

/// The text padded with spaces to `width` columns, or cut with "…" if longer.
std::string fit(const std::string& text, int width);

/// & < > " ' as entities.
std::string html_escape(const std::string& text);

}  // namespace kvscope::report
