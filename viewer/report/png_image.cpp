#include "png_image.h"

#include <fmt/format.h>
#include <png.h>

#include <cstring>

#include "kvscope/core/error.h"

namespace kvscope::report {

std::string hex(Colour colour) {
  return fmt::format("#{:02X}{:02X}{:02X}", colour.r, colour.g, colour.b);
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
  static_assert(sizeof(Colour) == 3, "libpng reads the colours as they lie");
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
