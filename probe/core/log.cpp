#include "kvscope/core/log.h"

#include <mutex>
#include <utility>

namespace kvscope {
namespace {

struct Sink {
  std::mutex mutex;
  LogSink function;
};

Sink& sink() {
  static Sink instance;
  return instance;
}

}  // namespace

LogSink set_log_sink(LogSink function) {
  const std::lock_guard lock(sink().mutex);
  return std::exchange(sink().function, std::move(function));
}

void log_message(LogLevel level, const std::string& message) {
  const std::lock_guard lock(sink().mutex);
  if (sink().function) {
    sink().function(level, message);
  }
}

}  // namespace kvscope
