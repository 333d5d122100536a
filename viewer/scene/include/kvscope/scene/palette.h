#pragma once

#include <cstdint>

namespace kvscope {

/// One opaque colour.
struct Colour {
  std::uint8_t r = 0;
  std::uint8_t g = 0;
  std::uint8_t b = 0;
  bool operator==(const Colour&) const = default;
};

/// Colour of a fate letter: Okabe and Ito's hues on both themes (specs/viewer.md 3.4); D stands
/// beside E's hue, since both are lost. Grey for "not yet" and anything else.
Colour fate_colour(char letter, bool dark);

/// Perceptually ordered scale for `share` in [0, 1]: low is far from the background, high near the
/// "kept" colour. NaN gives the "not captured" grey.
Colour share_colour(double share, bool dark);

/// Sequential scale for costs in [0, 1]: 0 is the background's neighbour, 1 the alarm.
Colour cost_colour(double value, bool dark);

/// Difference in [-1, 1]: orange where A keeps more, blue where B does, the background's neighbour
/// at 0; NaN gives the "not captured" grey.
Colour difference_colour(double value, bool dark);

/// Contrast ratio of two colours as WCAG 2 defines it, 1 to 21.
double contrast(Colour a, Colour b);

/// Black or white, whichever reads better on `background`.
Colour ink_on(Colour background);

}  // namespace kvscope
