#pragma once

#include <functional>
#include <string>

namespace kvscope {

enum class LogLevel { debug, info, warning, error };

/// Receives every message of the library. Called from any thread, one call at a time.
using LogSink = std::function<void(LogLevel, const std::string&)>;

/// Installs `sink`; an empty one (the default) discards. Returns the previous sink.
LogSink set_log_sink(LogSink sink);

void log_message(LogLevel level, const std::string& message);
inline void log_debug(const std::string& message) {
  log_message(LogLevel::debug, message);
}
inline void log_info(const std::string& message) {
  log_message(LogLevel::info, message);
}
inline void log_warning(const std::string& message) {
  log_message(LogLevel::warning, message);
}

}  // namespace kvscope
