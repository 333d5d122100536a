#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/scene/palette.h"

namespace kvscope::report {

/// "#0072B2".
std::string hex(Colour colour);

/// PNG of a palette image [height, width], rows from the top. Throws Error{failed} if libpng
/// refuses.
std::vector<std::uint8_t> palette_png(const std::vector<std::uint8_t>& pixels, int width,
                                      int height, const std::vector<Colour>& palette);

/// RFC 4648 with padding.
std::string base64(const std::vector<std::uint8_t>& bytes);

}  // namespace kvscope::report
