#include "kvscope/scene/palette.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace kvscope {
namespace {

using Stops = std::array<Colour, 6>;

// Dark to light, in the manner of viridis: blue for what is gone, yellow-green for what stays.
constexpr Stops dark_share = {
    {{38, 26, 62}, {58, 60, 120}, {44, 105, 142}, {36, 148, 140}, {92, 190, 106}, {224, 226, 74}}};
constexpr Stops light_share = {{{247, 240, 224},
                                {214, 226, 178},
                                {140, 203, 150},
                                {64, 166, 146},
                                {36, 113, 138},
                                {38, 52, 98}}};
constexpr Stops dark_cost = {
    {{34, 34, 42}, {78, 36, 62}, {134, 40, 70}, {192, 62, 58}, {236, 122, 52}, {252, 214, 120}}};
constexpr Stops light_cost = {{{250, 246, 240},
                               {252, 220, 180},
                               {248, 176, 120},
                               {232, 112, 80},
                               {190, 52, 70},
                               {110, 16, 60}}};

Colour mix(const Stops& stops, double value) {
  if (!std::isfinite(value)) {
    return {120, 120, 120};
  }
  const double at = std::clamp(value, 0.0, 1.0) * (static_cast<double>(stops.size()) - 1);
  const auto low = std::min(static_cast<std::size_t>(at), stops.size() - 2);
  const double part = at - static_cast<double>(low);
  const auto blend = [part](std::uint8_t a, std::uint8_t b) {
    return static_cast<std::uint8_t>(std::lround(a + part * (b - a)));
  };
  const Colour a = stops[low];
  const Colour b = stops[low + 1];
  return {blend(a.r, b.r), blend(a.g, b.g), blend(a.b, b.b)};
}

double luminance(Colour colour) {
  const auto linear = [](std::uint8_t channel) {
    const double value = channel / 255.0;
    return value <= 0.03928 ? value / 12.92 : std::pow((value + 0.055) / 1.055, 2.4);
  };
  return 0.2126 * linear(colour.r) + 0.7152 * linear(colour.g) + 0.0722 * linear(colour.b);
}

}  // namespace

Colour fate_colour(char letter, bool dark) {
  switch (letter) {
    case 'K':
      return dark ? Colour{86, 180, 140} : Colour{60, 150, 112};
    case 'P':
      return dark ? Colour{126, 188, 240} : Colour{70, 130, 196};
    case 'T':
      return dark ? Colour{240, 228, 100} : Colour{208, 178, 20};
    case 'M':
      return dark ? Colour{204, 136, 196} : Colour{168, 84, 156};
    case 'E':
      return dark ? Colour{150, 58, 60} : Colour{216, 120, 108};
    case 'D':
      return dark ? Colour{255, 128, 40} : Colour{214, 84, 0};
    case 'S':
      return dark ? Colour{112, 112, 128} : Colour{176, 176, 188};
    default:
      return dark ? Colour{58, 58, 66} : Colour{222, 222, 226};
  }
}

Colour share_colour(double share, bool dark) {
  return mix(dark ? dark_share : light_share, share);
}

Colour cost_colour(double value, bool dark) {
  return mix(dark ? dark_cost : light_cost, value);
}

double contrast(Colour a, Colour b) {
  const double first = luminance(a);
  const double second = luminance(b);
  return (std::max(first, second) + 0.05) / (std::min(first, second) + 0.05);
}

Colour ink_on(Colour background) {
  constexpr Colour black{16, 16, 20};
  constexpr Colour white{250, 250, 252};
  return contrast(background, black) >= contrast(background, white) ? black : white;
}

}  // namespace kvscope
