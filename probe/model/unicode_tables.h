#pragma once

namespace kvscope {

/// Hexadecimal rows; made by unicode_tables.py.
extern const char* const composition_digits;  ///< composed 5, first 5, second 5, excluded 1
extern const char* const combining_digits;    ///< first 5, last 5, combining class 2
extern const char* const singleton_digits;    ///< character 5, what it stands for 5

}  // namespace kvscope
