#pragma once

#include <filesystem>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"
#include "kvscope/storage/capture_state.h"
#include "kvscope/storage/isolated.h"

namespace kvscope::gui {

/// Reads files anew when there is more to see: a live capture after each commit of its run (what
/// was written behind the newest commit is not looked at), other files when they are replaced.
/// Files are looked at no more than five times a second, and read on the thread that owns HDF5;
/// whatever changed in one, it goes through `checker` before this process opens it again.
class Watch {
 public:
  explicit Watch(std::vector<std::string> paths, const FileChecker* checker = nullptr);

  /// The scene as the files now have it, once after each change; nothing else. `now` in seconds.
  /// Throws Error if the new files cannot be read; the next change is read all the same.
  std::optional<Scene> poll(double now);

 private:
  struct Seen {
    bool busy = false;                 ///< its writer has not said its last word
    std::optional<CommitMark> commit;  ///< of a live capture; then time and size mean nothing
    std::filesystem::file_time_type time{};
    std::uintmax_t size = 0;
    bool operator==(const Seen&) const = default;
  };
  static std::vector<Seen> look(const std::vector<std::string>& paths, const FileChecker* checker);

  std::vector<std::string> paths_;
  const FileChecker* checker_;
  std::vector<Seen> seen_;
  std::future<std::vector<Seen>> looking_;
  std::future<Scene> loading_;
  double last_ = -1;
};

}  // namespace kvscope::gui
