#pragma once

#include <string>

#include "kvscope/scene/raster.h"

namespace kvscope::gui {

/// Writes a PNG under a temporary name, then renames. Throws Error{io}.
void write_png(const std::string& path, const Pixels& pixels);

}  // namespace kvscope::gui
