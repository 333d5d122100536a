#include "png_file.h"

#include <fmt/format.h>
#include <png.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "kvscope/core/error.h"

namespace kvscope::gui {

void write_png(const std::string& path, const Pixels& pixels) {
  std::vector<std::uint8_t> rgb;  // the picture is opaque: a quarter less to compress
  rgb.reserve(pixels.rgba.size() / 4 * 3);
  for (std::size_t at = 0; at + 3 < pixels.rgba.size(); at += 4) {
    rgb.insert(rgb.end(), {pixels.rgba[at], pixels.rgba[at + 1], pixels.rgba[at + 2]});
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(pixels.width);
  image.height = static_cast<png_uint_32>(pixels.height);
  image.format = PNG_FORMAT_RGB;
  image.flags = PNG_IMAGE_FLAG_FAST;
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  std::error_code failure;
  if (png_image_write_to_file(&image, temporary.c_str(), 0, rgb.data(), 0, nullptr) == 0) {
    std::filesystem::remove(temporary, failure);
    throw Error(ErrorCode::io, fmt::format("the picture cannot be written: {}", image.message),
                path, "check the folder, its permissions and the free space");
  }
  std::filesystem::rename(temporary, path, failure);
  if (failure) {
    const std::string reason = failure.message();
    std::filesystem::remove(temporary, failure);
    throw Error(ErrorCode::io, "the picture cannot be renamed: " + reason, path);
  }
}

}  // namespace kvscope::gui
