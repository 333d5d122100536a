#include "png_image.h"

#include <fmt/format.h>
#include <png.h>

#include <cstring>

#include "kvscope/core/error.h"

namespace kvscope::report {

Colour fate_colour(char letter) {
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
      return {0x80, 0x80, 0x80};
  }
}

std::string hex(Colour colour) {
  return fmt::format("#{:02X}{:02X}{:02X}", colour[0], colour[1], colour[2]);
}

std::vector<std::uint8_t> palette_png(const std::vector<std::uint8_t>& pixels, int width,
                                      int height, const std::vector<Colour>& palette) {
  png_image image;
  std::memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = static_cast<png_uint_32>(palette.size());
  png_alloc_size_t size = 0;
  const auto write = [&](void* memory) {
    return png_image_write_to_memory(&image, memory, &size, 0, pixels.data(), width,
                                     palette.data()) != 0;
  };
  std::vector<std::uint8_t> bytes;
  bool written = write(nullptr);
  if (written) {
    bytes.resize(size);
    written = write(bytes.data());
    bytes.resize(size);
  }
  KVSCOPE_CHECK(written, ErrorCode::failed,
                fmt::format("libpng cannot write the map: {}", image.message),
                fmt::format("{} x {} pixels", width, height));
  return bytes;
}

std::string base64(const std::vector<std::uint8_t>& bytes) {
  static constexpr char digits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      group = group << 8 | (i + j < bytes.size() ? bytes[i + j] : 0u);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      text += i + j <= bytes.size() ? digits[group >> (18 - 6 * j) & 63u] : '=';
    }
  }
  return text;
}

}  // namespace kvscope::report
