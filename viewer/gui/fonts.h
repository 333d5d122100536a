#pragma once

#include <string>

namespace kvscope::gui {

/// Loads a font for text and merges fonts for other scripts, from the usual places of the system;
/// ImGui's own where there is none. Missing glyphs show as a box.
void load_fonts(float pixels);

/// Colours and spacing of the theme, "dark" or "light".
void apply_theme(const std::string& theme);

}  // namespace kvscope::gui
