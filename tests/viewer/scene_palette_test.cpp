#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kvscope/scene/palette.h"

namespace kvscope {
namespace {

using Triple = std::array<double, 3>;
using Matrix = std::array<Triple, 3>;

double linear(std::uint8_t channel) {
  const double value = channel / 255.0;
  return value <= 0.04045 ? value / 12.92 : std::pow((value + 0.055) / 1.055, 2.4);
}

Triple times(const Matrix& matrix, const Triple& vector) {
  Triple result{};
  for (std::size_t row = 0; row < 3; ++row) {
    for (std::size_t column = 0; column < 3; ++column) {
      result[row] += matrix[row][column] * vector[column];
    }
  }
  return result;
}

/// CIELAB (D65) of a colour seen through a simulation applied in linear RGB.
Triple lab(Colour colour, const Matrix& simulation) {
  Triple rgb = times(simulation, {linear(colour.r), linear(colour.g), linear(colour.b)});
  for (double& channel : rgb) {
    channel = std::clamp(channel, 0.0, 1.0);
  }
  const Triple xyz =
      times({{{0.4124, 0.3576, 0.1805}, {0.2126, 0.7152, 0.0722}, {0.0193, 0.1192, 0.9505}}}, rgb);
  const auto f = [](double t) {
    return t > 216.0 / 24389 ? std::cbrt(t) : (24389.0 / 27 * t + 16) / 116;
  };
  const double x = f(xyz[0] / 0.95047);
  const double y = f(xyz[1]);
  const double z = f(xyz[2] / 1.08883);
  return {116 * y - 16, 500 * (x - y), 200 * (y - z)};
}

double distance(const Triple& a, const Triple& b) {
  return std::hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

// Machado, Oliveira and Fernandes 2009, full severity.
constexpr Matrix normal = {{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
constexpr Matrix protanopia = {{{0.152286, 1.052583, -0.204868},
                                {0.114503, 0.786281, 0.099216},
                                {-0.003882, -0.048116, 1.051998}}};
constexpr Matrix deuteranopia = {{{0.367322, 0.860646, -0.227968},
                                  {0.280085, 0.672501, 0.047413},
                                  {-0.011820, 0.042940, 0.968881}}};
constexpr Matrix tritanopia = {{{1.255528, -0.076749, -0.178779},
                                {-0.078411, 0.930809, 0.147602},
                                {0.004733, 0.691367, 0.303900}}};

TEST(Palette, FatesDifferForEveryEye) {
  const std::string letters = "KPTMEDSN";
  for (const Matrix& eye : {normal, protanopia, deuteranopia, tritanopia}) {
    for (const bool dark : {true, false}) {
      for (const char a : letters) {
        for (const char b : letters) {
          const double apart =
              distance(lab(fate_colour(a, dark), eye), lab(fate_colour(b, dark), eye));
          EXPECT_TRUE(a == b || apart >= 14) << a << b << " " << apart;
        }
      }
    }
  }
}

TEST(Palette, TextReadsOnEveryFate) {
  for (const char letter : std::string("KPTMEDSN?")) {
    for (const bool dark : {true, false}) {
      const Colour colour = fate_colour(letter, dark);
      EXPECT_GE(contrast(colour, ink_on(colour)), 4.5) << letter;
    }
  }
  EXPECT_NEAR(contrast({0, 0, 0}, {255, 255, 255}), 21, 1e-9);
}

TEST(Palette, SequentialScalesRiseInLightnessOneWay) {
  for (const bool dark : {true, false}) {
    double previous = 0;
    for (int step = 0; step <= 20; ++step) {
      const double lightness = lab(share_colour(step / 20.0, dark), normal)[0];
      if (step > 0) {
        EXPECT_TRUE(dark ? lightness > previous : lightness < previous) << step;
      }
      previous = lightness;
    }
  }
}

TEST(Palette, DifferencesHaveTwoSidesAndGreyIsNotCaptured) {
  EXPECT_EQ(difference_colour(std::numeric_limits<double>::quiet_NaN(), true),
            share_colour(std::numeric_limits<double>::quiet_NaN(), true));
  EXPECT_GT(difference_colour(1, true).r, difference_colour(1, true).b);
  EXPECT_GT(difference_colour(-1, true).b, difference_colour(-1, true).r);
}

}  // namespace
}  // namespace kvscope
