#pragma once

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvscope/core/error.h"

namespace kvscope::cli {

/// An error as text on stderr; returns the exit status it stands for.
int report_error(const Error& error);
/// Results: to stdout.
void print(const std::string& text);
void print_json(const nlohmann::json& value);
/// Messages to people: to stderr, one line.
void say(const std::string& message);

/// Progress on stderr with rate and time left; silent unless stderr is a terminal. Redraws at most
/// ten times a second and clears its line when destroyed.
class Progress {
 public:
  Progress(std::string what, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(double done, double total);

 private:
  std::string what_;
  std::string unit_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_;
};

/// Set by the first SIGINT or SIGTERM; the second one ends the program at once.
const std::atomic<bool>& stop_requested();
/// Installs the signal handlers and the log sink.
void install_console();

/// "47.2 MiB".
std::string bytes_text(std::int64_t bytes);
/// Seconds since `start`.
double seconds_since(std::chrono::steady_clock::time_point start);
/// Largest resident set of this process so far, in bytes.
std::int64_t peak_memory_bytes();
/// Whole file as text. Throws Error{io}; Error{usage} if it is larger than `limit`.
std::string read_text_file(const std::string& path, std::int64_t limit = std::int64_t{64} << 20);
/// Writes a file under a temporary name, then renames. Throws Error{io}; Error{usage} if it exists
/// and `force` is off.
void write_text_file(const std::string& path, const std::string& text, bool force);
/// Throws Error{usage} if `path` exists and `force` is off: before any work.
void refuse_existing(const std::string& path, bool force);
/// "0-3,7" as a sorted list of numbers in [0, limit). Throws Error{usage} naming `flag`.
std::vector<int> parse_list(const std::string& text, const std::string& flag, int limit);

}  // namespace kvscope::cli
