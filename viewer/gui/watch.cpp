#include "watch.h"

#include <chrono>
#include <utility>

#include "kvscope/core/error.h"
#include "load.h"

namespace kvscope::gui {
namespace {

constexpr double interval_seconds = 0.2;

template <typename T>
bool is_ready(const std::future<T>& future) {
  return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

/// The newest commit of a live capture that may be opened.
std::optional<CommitMark> sound_commit(const std::string& path, const FileChecker* checker) {
  try {
    if (checker != nullptr) {
      checker->check({path});
    }
    return commit_mark(path);
  } catch (const Error&) {  // whoever reads the file will say so
    return std::nullopt;
  }
}

}  // namespace

Watch::Watch(std::vector<std::string> paths, const FileChecker* checker)
    : paths_(std::move(paths)), checker_(checker), seen_(look(paths_, checker_)) {}

std::vector<Watch::Seen> Watch::look(const std::vector<std::string>& paths,
                                     const FileChecker* checker) {
  std::vector<Seen> seen;
  for (const std::string& path : paths) {
    Seen now;
    now.busy = being_written(path);
    now.commit = sound_commit(path, checker);
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
      loading_ = load_scene(paths_, checker_);
    }
    return std::nullopt;
  }
  if (last_ < 0 || now - last_ >= interval_seconds) {
    last_ = now;
    looking_ = std::async(std::launch::async, look, paths_, checker_);
  }
  return std::nullopt;
}

}  // namespace kvscope::gui
