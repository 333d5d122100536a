#include "console.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "kvscope/core/error.h"
#include "kvscope/core/log.h"

namespace kvscope::cli {
namespace {

std::atomic<bool> stop_flag{false};
std::atomic<std::int64_t> stopped_at{0};

/// The first signal asks to stop, a later one ends the program. `timeout` and terminals may send
/// one signal twice, to the process and to its group: within 0.2 s it counts once.
extern "C" void on_signal(int signal) {
  constexpr std::int64_t once = 200'000'000;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t at = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  std::int64_t first = 0;
  if (stopped_at.compare_exchange_strong(first, at)) {
    stop_flag = true;
  } else if (at - first > once) {
    _exit(128 + signal);
  }
}

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return "debug";
    case LogLevel::info:
      return "info";
    case LogLevel::warning:
      return "warning";
    case LogLevel::error:
      return "error";
  }
  return "";
}

std::string duration_text(double seconds) {
  return seconds < 90 ? fmt::format("{:.0f} s", seconds) : fmt::format("{:.0f} min", seconds / 60);
}

}  // namespace

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (text.empty() || text.back() != '\n') {
    std::fputc('\n', stdout);
  }
}

void print_json(const nlohmann::json& value) {
  print(value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

int report_error(const Error& error) {
  fmt::print(stderr, "error: {}\n", error.message());
  if (!error.where().empty()) {
    fmt::print(stderr, "where: {}\n", error.where());
  }
  if (!error.fix().empty()) {
    fmt::print(stderr, "fix:   {}\n", error.fix());
  }
  return exit_status(error);
}

void say(const std::string& message) {
  fmt::print(stderr, "{}\n", message);
}

Progress::Progress(std::string what, std::string unit)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_) {}

Progress::~Progress() {
  if (terminal_) {
    std::fputs("\r\033[K", stderr);
  }
}

void Progress::update(double done, double total) {
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || now - drawn_ < std::chrono::milliseconds(100) || done <= 0 || total <= 0) {
    return;
  }
  drawn_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double rate = done / elapsed;
  fmt::print(stderr, "\r\033[K{} {:3.0f} %  {:.0f} {}/s  {} left", what_, 100 * done / total, rate,
             unit_, duration_text((total - done) / rate));
  std::fflush(stderr);
}

const std::atomic<bool>& stop_requested() {
  return stop_flag;
}

void install_console() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit then shows as EFBIG, with a message
  set_log_sink([](LogLevel level, const std::string& message) {
    if (level >= LogLevel::info) {
      say(fmt::format("{}: {}", level_name(level), message));
    }
  });
}

std::string bytes_text(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes < 1024) {
    return fmt::format("{} B", bytes);
  }
  if (bytes < (std::int64_t{1} << 20)) {
    return fmt::format("{:.1f} KiB", value / 1024);
  }
  if (bytes < (std::int64_t{1} << 30)) {
    return fmt::format("{:.1f} MiB", value / (1 << 20));
  }
  return fmt::format("{:.2f} GiB", value / (1 << 30));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

std::string read_text_file(const std::string& path, std::int64_t limit) {
  std::error_code failure;
  KVSCOPE_CHECK(!std::filesystem::is_directory(path, failure), ErrorCode::io,
                "this is a folder, not a text file", path, "name a file");
  std::ifstream file(path, std::ios::binary);
  KVSCOPE_CHECK(file.good(), ErrorCode::io, fmt::format("cannot read: {}", std::strerror(errno)),
                path, "check the name and the permissions");
  const auto size = std::filesystem::file_size(path, failure);
  KVSCOPE_CHECK(failure || static_cast<std::int64_t>(size) <= limit, ErrorCode::usage,
                fmt::format("{} bytes of text, the limit is {}", size, limit), path,
                "is this a text file?");
  return {std::istreambuf_iterator<char>(file), {}};
}

void refuse_existing(const std::string& path, bool force) {
  std::error_code failure;
  KVSCOPE_CHECK(force || !std::filesystem::exists(path, failure), ErrorCode::usage,
                "the output file exists", path, "choose another name, or pass --force");
}

void write_text_file(const std::string& path, const std::string& text, bool force) {
  refuse_existing(path, force);
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  std::ofstream file(temporary, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  std::error_code failure;
  if (file.fail()) {
    const int reason = errno;
    std::filesystem::remove(temporary, failure);
    throw Error(ErrorCode::io, fmt::format("cannot write: {}", std::strerror(reason)), path,
                "check the folder, its permissions and the free space");
  }
  std::filesystem::rename(temporary, path, failure);
  if (failure) {
    const std::string reason = failure.message();
    std::filesystem::remove(temporary, failure);
    throw Error(ErrorCode::io, "cannot rename the finished file: " + reason, path);
  }
}

std::vector<int> parse_list(const std::string& text, const std::string& flag, int limit) {
  std::vector<int> numbers;
  std::stringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    int first = 0;
    int last = 0;
    int used = 0;
    const bool range = std::sscanf(item.c_str(), "%d-%d%n", &first, &last, &used) == 2 &&
                       used == static_cast<int>(item.size());
    if (!range) {
      used = 0;
      KVSCOPE_CHECK(std::sscanf(item.c_str(), "%d%n", &first, &used) == 1 &&
                        used == static_cast<int>(item.size()),
                    ErrorCode::usage, fmt::format("'{}' is neither a number nor a range", item),
                    flag, "write for example 0-3,7");
      last = first;
    }
    KVSCOPE_CHECK(first >= 0 && last >= first && last < limit, ErrorCode::usage,
                  fmt::format("'{}' lies outside 0 to {}", item, limit - 1), flag,
                  "choose within the range");
    for (int number = first; number <= last; ++number) {
      numbers.push_back(number);
    }
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers;
}

}  // namespace kvscope::cli
