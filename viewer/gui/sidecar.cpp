#include "sidecar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "kvscope/core/error.h"

namespace kvscope::gui {
namespace {

void write_text(const std::string& path, const std::string& text) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  {
    std::ofstream file(temporary, std::ios::binary);
    file << text;
    file.close();
    if (!file) {
      std::error_code failure;
      std::filesystem::remove(temporary, failure);
      throw Error(ErrorCode::io, "the file cannot be written", path,
                  "check the folder, its permissions and the free space");
    }
  }
  std::error_code failure;
  std::filesystem::rename(temporary, path, failure);
  if (failure) {
    const std::string reason = failure.message();
    std::filesystem::remove(temporary, failure);
    throw Error(ErrorCode::io, "the file cannot be renamed: " + reason, path);
  }
}

}  // namespace

std::vector<Bookmark> load_bookmarks(const std::string& path, const std::string& capture_hash) {
  std::error_code failure;
  if (path.empty() || !std::filesystem::exists(path, failure)) {
    return {};
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  KVSCOPE_CHECK(file.good(), ErrorCode::io, "the bookmarks cannot be read", path);
  return read_bookmarks(text.str(), capture_hash, path);
}

std::string save_bookmarks(const std::string& path, const std::vector<Bookmark>& bookmarks,
                           const std::string& capture_hash) {
  if (path.empty()) {
    return "bookmarked for this session";
  }
  write_text(path, bookmarks_json(bookmarks, capture_hash));
  return fmt::format("{} bookmarks in {}", bookmarks.size(), path);
}

std::string free_name(const std::string& extension) {
  std::error_code failure;
  int number = 1;
  while (std::filesystem::exists(fmt::format("kvscope-{}.{}", number, extension), failure)) {
    ++number;
  }
  return fmt::format("kvscope-{}.{}", number, extension);
}

std::string save_export(const std::string& extension, const std::string& text) {
  const std::string path = free_name(extension);
  write_text(path, text);
  return path;
}

}  // namespace kvscope::gui
