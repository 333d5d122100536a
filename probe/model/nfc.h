#pragma once

#include <string>
#include <string_view>

namespace kvscope {

/// Unicode normalisation form C (UAX #15). Bytes that are no UTF-8 pass through as they are.
std::string nfc(std::string_view text);

}  // namespace kvscope
