#include "kvscope/storage/isolated.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>

#include "h5.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/file_kind.h"

namespace kvscope {
namespace {

/// A path or an error on its way between processes.
constexpr std::size_t message_bytes = 16384;

/// Whether HDF5 would find its signature, which may stand behind a block of the user's: at 0, 512,
/// 1024, 2048...
bool is_hdf5(const std::string& path) {
  std::error_code failure;
  if (!std::filesystem::is_regular_file(path, failure)) {
    return false;
  }
  std::array<char, 8> head{};
  std::ifstream file(path, std::ios::binary);
  for (std::streamoff at = 0; file.seekg(at).read(head.data(), head.size());
       at = std::max<std::streamoff>(512, 2 * at)) {
    if (std::memcmp(head.data(), "\x89HDF\r\n\x1a\n", head.size()) == 0) {
      return true;
    }
  }
  return false;
}

/// Bytes of address space this process has.
std::int64_t mapped_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t pages = 0;
  statm >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

void lower(int resource, std::int64_t most) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) == 0) {
    limit.rlim_cur = std::min(limit.rlim_cur, static_cast<rlim_t>(most));
    setrlimit(static_cast<__rlimit_resource_t>(resource), &limit);
  }
}

/// Reads the first and the last cell of every dataset: the whole index of its chunks is walked to
/// them.
void touch_ends(const std::string& path) {
  const h5::Session session;
  const h5::Handle file = h5::open_file(path);
  for (const std::string& name : h5::list_datasets(file)) {
    const h5::Handle dataset = h5::open_dataset(file, name);
    const h5::Extent extent = h5::extent(dataset, name);
    if (extent.empty() || h5::elements(extent) == 0) {
      continue;
    }
    const h5::Handle type(H5Dget_type(dataset), H5Tclose);
    std::vector<unsigned char> cell(H5Tget_size(type));
    const h5::Handle space(H5Dget_space(dataset), H5Sclose);
    const std::vector<hsize_t> one(extent.size(), 1);
    const h5::Handle box(H5Screate_simple(static_cast<int>(one.size()), one.data(), nullptr),
                         H5Sclose);
    for (const bool last : {false, true}) {
      std::vector<hsize_t> at(extent.size(), 0);
      for (std::size_t axis = 0; last && axis < at.size(); ++axis) {
        at[axis] = static_cast<hsize_t>(extent[axis] - 1);
      }
      H5Sselect_hyperslab(space, H5S_SELECT_SET, at.data(), nullptr, one.data(), nullptr);
      h5::require(H5Tis_variable_str(type) <= 0 && H5Tdetect_class(type, H5T_VLEN) <= 0 &&
                      H5Dread(dataset, type, box, space, H5P_DEFAULT, cell.data()) >= 0,
                  ErrorCode::corrupt_file, "the dataset cannot be read", path + ", /" + name);
    }
  }
}

void read_once(const std::string& path) {
  if (file_kind(path) == FileKind::capture) {
    const CaptureReader reader(path);
    if (!h5::may_change(path)) {  // else its writer may be moving the ends
      touch_ends(path);
    }
  } else {
    check_file(path);
  }
}

/// An error as bytes for the pipe: its code, then its texts, each ended by a zero.
std::string packed(const Error& error) {
  std::string bytes(1, static_cast<char>(error.code()));
  for (const std::string& text : {error.message(), error.where(), error.fix()}) {
    bytes += text.substr(0, 4096);
    bytes.push_back('\0');
  }
  return bytes;
}

Error unpacked(const std::string& bytes) {
  const std::size_t message = bytes.find('\0', 1);
  const std::size_t where = bytes.find('\0', message + 1);
  const std::size_t fix = bytes.find('\0', where + 1);
  return {static_cast<ErrorCode>(bytes[0]), bytes.substr(1, message - 1),
          bytes.substr(message + 1, where - message - 1),
          fix == std::string::npos ? "" : bytes.substr(where + 1, fix - where - 1)};
}

/// Checks one file; what went wrong with it goes to `out`.
int check_into(int out, const std::string& path) {
  std::string bytes;
  try {
    read_once(path);
    return 0;
  } catch (const Error& error) {
    bytes = packed(error);
  } catch (const std::exception& error) {
    bytes = packed(Error(ErrorCode::corrupt_file, error.what(), path));
  }
  return ::write(out, bytes.data(), bytes.size()) < 0 ? 2 : 1;
}

void check_one(const std::string& path) {
  std::array<int, 2> ends{};
  KVSCOPE_CHECK(pipe(ends.data()) == 0, ErrorCode::io,
                fmt::format("cannot make a pipe: {}", std::strerror(errno)), path);
  int status = 0;
  try {
    status = run_isolated(path, [&] { return check_into(ends[1], path); });
  } catch (...) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw;
  }
  ::close(ends[1]);
  std::string bytes(message_bytes, '\0');  // an error fits, and fits into a pipe
  const ssize_t got = status == 0 ? 0 : ::read(ends[0], bytes.data(), bytes.size());
  ::close(ends[0]);
  if (status != 0) {
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    throw bytes.size() > 3 ? unpacked(bytes)
                           : Error(ErrorCode::corrupt_file, "the file cannot be read", path);
  }
}

}  // namespace

ChildLimits child_limits(const std::string& path) {
  if (!is_hdf5(path)) {  // models are mapped, part by part, whatever their size
    return {0, 3600};
  }
  std::error_code failure;
  const auto size = std::filesystem::file_size(path, failure);
  const std::int64_t bytes = failure ? 0 : static_cast<std::int64_t>(size);
  return {(std::int64_t{1} << 30) + 4 * bytes, static_cast<int>(60 + bytes / 20'000'000)};
}

int run_isolated(const std::string& path, const std::function<int()>& read, ChildLimits limits) {
  const ChildLimits usual = child_limits(path);
  limits.memory_bytes = limits.memory_bytes > 0 ? limits.memory_bytes : usual.memory_bytes;
  limits.seconds = limits.seconds > 0 ? limits.seconds : usual.seconds;
  std::fflush(nullptr);  // else the child would print what waits in the buffers again
  const pid_t child = fork();
  KVSCOPE_CHECK(child >= 0, ErrorCode::io,
                fmt::format("cannot start a process: {}", std::strerror(errno)), path,
                "free memory or raise the limit of processes");
  if (child == 0) {
    lower(RLIMIT_CORE, 0);
    if (limits.memory_bytes > 0) {
      lower(RLIMIT_AS, mapped_bytes() + limits.memory_bytes);
    }
    signal(SIGALRM, SIG_DFL);
    alarm(static_cast<unsigned>(limits.seconds));
    const int status = read();
    std::fflush(nullptr);
    _exit(status);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  KVSCOPE_CHECK(signal != SIGALRM, ErrorCode::corrupt_file,
                fmt::format("reading the file does not end; stopped after {} s", limits.seconds),
                path, "the file is damaged; take another copy of it");
  KVSCOPE_CHECK(WIFEXITED(status), ErrorCode::corrupt_file,
                fmt::format("the HDF5 library crashed on this file (signal {})", signal), path,
                "the file is damaged; take another copy of it");
  return WEXITSTATUS(status);
}

void check_isolated(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    if (is_hdf5(path)) {
      check_one(path);
    }
  }
}

struct FileChecker::Impl {
  /// What a change of a file shows in.
  struct Seen {
    dev_t device = 0;
    ino_t inode = 0;
    off_t size = -1;
    std::int64_t seconds = 0;
    std::int64_t nanoseconds = 0;
    bool operator==(const Seen&) const = default;
  };
  struct Result {
    Seen seen;
    std::optional<Error> error;
  };

  static Seen look(const std::string& path);
  /// The process: checks each path it is sent and answers with a zero byte or an error.
  [[noreturn]] static void serve(int socket);
  std::optional<Error> ask(const std::string& path) const;

  int socket = -1;
  pid_t process = -1;
  mutable std::mutex mutex;  ///< one question at a time
  mutable std::map<std::string, Result> results;
  mutable int checks = 0;
};

FileChecker::Impl::Seen FileChecker::Impl::look(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    return {};
  }
  return {status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec,
          status.st_mtim.tv_nsec};
}

void FileChecker::Impl::serve(int socket) {
  std::vector<char> path(message_bytes);
  while (true) {
    const ssize_t got = ::recv(socket, path.data(), path.size(), 0);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      _exit(0);  // whoever asked is gone
    }
    std::string answer(1, '\0');
    try {
      check_one(std::string(path.data(), static_cast<std::size_t>(got)));
    } catch (const Error& error) {
      answer += packed(error);
    } catch (const std::exception& error) {
      answer += packed(Error(ErrorCode::failed, error.what()));
    }
    if (::send(socket, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) {
      _exit(1);
    }
  }
}

std::optional<Error> FileChecker::Impl::ask(const std::string& path) const {
  std::string answer(message_bytes, '\0');
  const bool sent =
      path.size() <= message_bytes && ::send(socket, path.data(), path.size(), MSG_NOSIGNAL) >= 0;
  ssize_t got = -1;
  while (sent && (got = ::recv(socket, answer.data(), answer.size(), 0)) < 0 && errno == EINTR) {
  }
  if (got <= 0) {
    return Error(ErrorCode::failed, "the process that checks files is gone", path,
                 "start the program again");
  }
  answer.resize(static_cast<std::size_t>(got));
  return got > 1 ? std::optional(unpacked(answer.substr(1))) : std::nullopt;
}

FileChecker::FileChecker() : impl_(std::make_unique<Impl>()) {
  std::array<int, 2> ends{};
  KVSCOPE_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0,
                ErrorCode::io,
                fmt::format("cannot make a pair of sockets: {}", std::strerror(errno)),
                "the check of files", "close some files, or raise the limit of open files");
  std::fflush(nullptr);
  impl_->process = fork();
  if (impl_->process == 0) {
    ::close(ends[0]);
    Impl::serve(ends[1]);
  }
  ::close(ends[1]);
  impl_->socket = ends[0];
  KVSCOPE_CHECK(impl_->process > 0, ErrorCode::io,
                fmt::format("cannot start a process: {}", std::strerror(errno)),
                "the check of files", "free memory or raise the limit of processes");
}

FileChecker::~FileChecker() {
  if (impl_->socket >= 0) {
    ::close(impl_->socket);  // the process ends
  }
  while (impl_->process > 0 && waitpid(impl_->process, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void FileChecker::check(const std::vector<std::string>& paths) const {
  const std::lock_guard lock(impl_->mutex);
  for (const std::string& path : paths) {
    if (!is_hdf5(path)) {
      continue;
    }
    const Impl::Seen now = Impl::look(path);
    const auto known = impl_->results.find(path);
    if (known == impl_->results.end() || known->second.seen != now) {
      ++impl_->checks;
      impl_->results.insert_or_assign(path, Impl::Result{now, impl_->ask(path)});
    }
    if (const std::optional<Error>& error = impl_->results.at(path).error) {
      throw Error(*error);
    }
  }
}

int FileChecker::checks() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->checks;
}

}  // namespace kvscope
