#include "decision_names.h"

#include <fmt/format.h>

#include <cctype>
#include <cstdint>
#include <filesystem>

#include "kvscope/core/error.h"

namespace kvscope::cli {

std::string decision_file_name(const std::string& capture_path, const std::string& method,
                               const std::string& keep) {
  std::string capture = std::filesystem::path(capture_path).filename().string();
  for (const std::string suffix : {".h5", ".capture"}) {
    if (capture.ends_with(suffix)) {
      capture.resize(capture.size() - suffix.size());
    }
  }
  std::uint64_t hash = 14695981039346656037u;
  std::string readable;
  for (const char character : method) {
    const auto byte = static_cast<unsigned char>(character);
    hash = (hash ^ byte) * 1099511628211u;
    if (std::isalnum(byte) != 0 || character == '_') {
      readable += character;
    } else if (!readable.empty() && readable.back() != '-') {
      readable += '-';
    }
  }
  readable.resize(std::min<std::size_t>(readable.size(), 80));
  return fmt::format("{}.{}-{:06x}@{}.decision.h5", capture, readable, hash & 0xFFFFFF, keep);
}

void make_folder(const std::string& path) {
  std::error_code failure;
  std::filesystem::create_directories(path, failure);
  KVSCOPE_CHECK(!failure && std::filesystem::is_directory(path), ErrorCode::io,
                fmt::format("cannot create the folder: {}", failure.message()), path,
                "choose another place");
}

}  // namespace kvscope::cli
