#pragma once

#include <filesystem>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope::gui {

/// Reads files anew when they grow or are replaced: a run in progress, or decisions made again.
/// Files are looked at no more than twice a second, and read on the thread that owns HDF5.
class Watch {
 public:
  explicit Watch(std::vector<std::string> paths);

  /// The scene as the files now have it, once after each change; nothing else. `now` in seconds.
  /// Throws Error if the new files cannot be read; the next change is read all the same.
  std::optional<Scene> poll(double now);

 private:
  struct Seen {
    std::filesystem::file_time_type time{};
    std::uintmax_t size = 0;
    bool operator==(const Seen&) const = default;
  };
  std::vector<Seen> look() const;

  std::vector<std::string> paths_;
  std::vector<Seen> seen_;
  std::future<Scene> loading_;
  double last_ = -1;
};

}  // namespace kvscope::gui
