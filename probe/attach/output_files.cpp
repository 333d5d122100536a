#include "output_files.h"

#include <filesystem>
#include <string_view>

#include "kvscope/attach/attached_run.h"
#include "kvscope/core/error.h"

namespace kvscope {

std::string error_lines(const std::exception& thrown) {
  const auto* error = dynamic_cast<const Error*>(&thrown);
  if (error == nullptr) {
    const std::string text = thrown.what();
    return text.substr(0, text.find('\n'));
  }
  std::string lines = error->message();
  lines += error->where().empty() ? "" : "\nwhere: " + error->where();
  lines += error->fix().empty() ? "" : "\nfix:   " + error->fix();
  return lines;
}

namespace detail {

bool exists(const std::string& path) {
  std::error_code failure;
  return std::filesystem::exists(path, failure);
}

void refuse_existing(const std::string& path, bool force) {
  KVSCOPE_CHECK(force || !exists(path), ErrorCode::usage, "the output file exists", path,
                "choose another name, or pass force=True");
}

std::string decision_path(const std::string& capture_path) {
  std::string path = capture_path;
  for (const std::string_view suffix : {".h5", ".capture"}) {
    if (path.ends_with(suffix)) {
      path.resize(path.size() - suffix.size());
    }
  }
  return path + ".decision.h5";
}

}  // namespace detail
}  // namespace kvscope
