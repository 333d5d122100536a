#pragma once

#include <string>

namespace kvscope {

/// Bounds a Jinja template before it is parsed, which takes stack by its nesting: 256 KiB in all,
/// 64 brackets and 100 blocks inside each other, 2,000 words and operators in one tag.
/// Throws Error{unsupported} naming the limit and the line.
void check_template(const std::string& source);

/// "chat template, line 3: {{ foo(x) }}" for a byte of the source; without the line if it is -1.
std::string template_place(const std::string& source, long long byte);

}  // namespace kvscope
