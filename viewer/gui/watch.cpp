#include "watch.h"

#include <chrono>
#include <utility>

#include "load.h"

namespace kvscope::gui {
namespace {

constexpr double interval_seconds = 0.2;

template <typename T>
bool is_ready(const std::future<T>& future) {
  return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace

Watch::Watch(std::vector<std::string> paths) : paths_(std::move(paths)), seen_(look(paths_)) {}

std::vector<Watch::Seen> Watch::look(const std::vector<std::string>& paths) {
  std::vector<Seen> seen;
  for (const std::string& path : paths) {
    Seen now;
    now.commit = commit_mark(path);
    if (!now.commit) {
      std::error_code failure;
      now.time = std::filesystem::last_write_time(path, failure);
      now.size = failure ? 0 : std::filesystem::file_size(path, failure);
      now = failure ? Seen{} : now;
    }
    seen.push_back(now);
  }
  return seen;
}

std::optional<Scene> Watch::poll(double now) {
  if (loading_.valid()) {
    return is_ready(loading_) ? std::optional(loading_.get()) : std::nullopt;
  }
  if (looking_.valid()) {
    if (!is_ready(looking_)) {
      return std::nullopt;
    }
    std::vector<Seen> changed = looking_.get();
    if (changed != seen_) {
      seen_ = std::move(changed);
      loading_ = load_scene(paths_);
    }
    return std::nullopt;
  }
  if (last_ < 0 || now - last_ >= interval_seconds) {
    last_ = now;
    looking_ = std::async(std::launch::async, look, paths_);
  }
  return std::nullopt;
}

}  // namespace kvscope::gui
