#include "child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

// First byte of what the child writes; an empty answer is a crash.
constexpr char done_mark = 'd';
constexpr char memory_mark = 'm';

/// Address space this process holds, bytes; 0 if it is not known.
std::int64_t held_bytes() {
  long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld", &pages) != 1) {
      pages = 0;
    }
    std::fclose(file);
  }
  return std::int64_t{pages} * sysconf(_SC_PAGESIZE);
}

void limit(int resource, std::int64_t most) {
  const rlimit both{static_cast<rlim_t>(most), static_cast<rlim_t>(most)};
  setrlimit(static_cast<__rlimit_resource>(resource), &both);
}

void confine(const ChildLimits& limits, std::int64_t held) {
  for (const int number :
       {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGXCPU, SIGPROF, SIGINT, SIGTERM, SIGPIPE}) {
    signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, limits.cpu_ms / 1000 + 2);  // should the timer not end it
  const itimerval once{{0, 0}, {limits.cpu_ms / 1000, limits.cpu_ms % 1000 * 1000}};
  setitimer(ITIMER_PROF, &once, nullptr);
  if (held > 0) {
    limit(RLIMIT_AS, held + limits.memory_bytes);
  }
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(nowhere, STDOUT_FILENO);
  dup2(nowhere, STDERR_FILENO);
  setenv("TZ", "UTC", 1);
}

bool write_all(int to, const char* bytes, std::size_t count) {
  while (count > 0) {
    const ssize_t wrote = write(to, bytes, count);
    if (wrote < 0 && errno != EINTR) {
      return false;
    }
    bytes += std::max<ssize_t>(wrote, 0);
    count -= static_cast<std::size_t>(std::max<ssize_t>(wrote, 0));
  }
  return true;
}

[[noreturn]] void be_child(int to, const std::function<std::string()>& work) {
  try {
    const std::string text = work();
    _exit(write_all(to, &done_mark, 1) && write_all(to, text.data(), text.size()) ? 0 : 1);
  } catch (const std::bad_alloc&) {
    write_all(to, &memory_mark, 1);
  } catch (...) {
    _exit(1);
  }
  _exit(1);
}

/// Reads until the end. False once there is more than `most`, or at the deadline.
bool read_all(int from, std::int64_t most, std::chrono::steady_clock::time_point deadline,
              std::string& text) {
  std::array<char, 65536> buffer;
  while (static_cast<std::int64_t>(text.size()) <= most) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd ready{from, POLLIN, 0};
    const int count = poll(&ready, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (count == 0) {
      return false;
    }
    const ssize_t got = count < 0 ? -1 : read(from, buffer.data(), buffer.size());
    if (got == 0) {
      return true;
    }
    if (got > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (errno != EINTR) {
      return true;
    }
  }
  return false;
}

ChildResult result_of(std::string text, bool complete, std::int64_t most, int status) {
  if (!complete) {
    return {static_cast<std::int64_t>(text.size()) > most ? ChildOutcome::too_much_output
                                                          : ChildOutcome::out_of_time,
            {}};
  }
  const bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (ended && !text.empty() && text.front() == done_mark) {
    text.erase(0, 1);
    return {ChildOutcome::done, std::move(text)};
  }
  if (!text.empty() && text.front() == memory_mark) {
    return {ChildOutcome::out_of_memory, {}};
  }
  const int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return {number == SIGPROF || number == SIGXCPU || number == SIGKILL ? ChildOutcome::out_of_time
                                                                      : ChildOutcome::crashed,
          {}};
}

}  // namespace

ChildResult run_in_child(const ChildLimits& limits, const std::function<std::string()>& work) {
  const std::int64_t held = held_bytes();
  std::array<int, 2> ends{-1, -1};
  const bool piped = pipe2(ends.data(), O_CLOEXEC) == 0;
  const pid_t child = piped ? fork() : -1;
  if (child == 0) {
    close(ends[0]);
    confine(limits, held);
    be_child(ends[1], work);
  }
  const int failure = errno;
  if (piped) {
    close(ends[1]);
  }
  if (child < 0) {
    if (piped) {
      close(ends[0]);
    }
    throw Error(ErrorCode::io, fmt::format("cannot start a process: {}", std::strerror(failure)),
                "", "free memory or raise the limits of processes and open files");
  }
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(limits.wall_seconds);
  std::string text;
  const bool complete = read_all(ends[0], limits.output_bytes, deadline, text);
  close(ends[0]);
  if (!complete) {
    kill(child, SIGKILL);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return result_of(std::move(text), complete, limits.output_bytes, status);
}

}  // namespace kvscope
