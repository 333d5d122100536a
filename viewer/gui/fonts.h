#pragma once

#include <string>

namespace kvscope::gui {

/// Loads a font for text, and fonts for other scripts where `text`, what is going to be shown,
/// needs them, from the usual places of the system; ImGui's own where there is none. Sizes come
/// from the style. `extra`: a font file to prefer for other scripts; empty for none. Throws
/// Error{io} if it does not exist.
void load_fonts(const std::string& text, const std::string& extra = {});

/// Colours and spacing of the theme, "dark" or "light", at `scale` times the usual size.
void apply_theme(const std::string& theme, float scale);

/// The text with every character that no loaded font has replaced by its code point, "<4E2D>".
std::string drawable(const std::string& utf8);

}  // namespace kvscope::gui
