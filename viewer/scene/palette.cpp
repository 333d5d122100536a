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
      return {0x00, 0x72, 0xB2};
    case 'P':
      return {0x56, 0xB4, 0xE9};
    case 'T':
      return {0x00, 0x9E, 0x73};
    case 'M':
      return {0xF0, 0xE4, 0x42};
    case 'E':
      return {0xD5, 0x5E, 0x00};
    case 'D':
      return {0x8C, 0x2D, 0x04};
    case 'S':
      return {0xCC, 0x79, 0xA7};
    default:
      return dark ? Colour{0x3A, 0x3A, 0x3A} : Colour{0xDD, 0xDD, 0xDD};
  }
}

Colour share_colour(double share, bool dark) {
  return mix(dark ? dark_share : light_share, share);
}

Colour cost_colour(double value, bool dark) {
  return mix(dark ? dark_cost : light_cost, value);
}

Colour difference_colour(double value, bool dark) {
  if (!std::isfinite(value)) {
    return {120, 120, 120};
  }
  const Colour none = dark ? Colour{40, 40, 48} : Colour{238, 238, 240};
  const Colour full = value > 0 ? Colour{240, 150, 60} : Colour{90, 150, 240};
  const double part = std::min(1.0, std::abs(value) * 1.5);
  const auto blend = [part](std::uint8_t x, std::uint8_t y) {
    return static_cast<std::uint8_t>(std::lround(x + part * (y - x)));
  };
  return {blend(none.r, full.r), blend(none.g, full.g), blend(none.b, full.b)};
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
