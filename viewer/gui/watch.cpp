#include "watch.h"

#include <chrono>

#include "load.h"

namespace kvscope::gui {
namespace {

constexpr double interval_seconds = 0.5;

}  // namespace

Watch::Watch(std::vector<std::string> paths) : paths_(std::move(paths)), seen_(look()) {}

std::vector<Watch::Seen> Watch::look() const {
  std::vector<Seen> seen;
  for (const std::string& path : paths_) {
    std::error_code failure;
    Seen now;
    now.time = std::filesystem::last_write_time(path, failure);
    now.size = failure ? 0 : std::filesystem::file_size(path, failure);
    seen.push_back(failure ? Seen{} : now);
  }
  return seen;
}

std::optional<Scene> Watch::poll(double now) {
  if (loading_.valid()) {
    if (loading_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      return std::nullopt;
    }
    return loading_.get();
  }
  if (last_ >= 0 && now - last_ < interval_seconds) {
    return std::nullopt;
  }
  last_ = now;
  const std::vector<Seen> changed = look();
  if (changed != seen_) {
    seen_ = changed;
    loading_ = load_scene(paths_);
  }
  return std::nullopt;
}

}  // namespace kvscope::gui
