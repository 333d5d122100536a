#include "isolated.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "console.h"
#include "kvscope/core/error.h"

namespace kvscope::cli {
namespace {

int guarded(const std::function<int()>& read) {
  try {
    return read();
  } catch (const Error& error) {
    return report_error(error);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}

}  // namespace

int read_isolated(const std::string& path, const std::function<int()>& read) {
  std::fflush(nullptr);  // else the child would print what waits in the buffers again
  const pid_t child = fork();
  KVSCOPE_CHECK(child >= 0, ErrorCode::io,
                fmt::format("cannot start a process: {}", std::strerror(errno)), path,
                "free memory or raise the limit of processes");
  if (child == 0) {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    const int status = guarded(read);
    std::fflush(nullptr);
    _exit(status);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  KVSCOPE_CHECK(WIFEXITED(status), ErrorCode::corrupt_file,
                fmt::format("the HDF5 library crashed on this file (signal {})",
                            WIFSIGNALED(status) ? WTERMSIG(status) : 0),
                path, "the file is damaged; take another copy of it");
  return WEXITSTATUS(status);
}

}  // namespace kvscope::cli
