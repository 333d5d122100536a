#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace kvscope {

/// What a child process may use that reads an untrusted file. Zero = as `child_limits` says, and
/// there no limit.
struct ChildLimits {
  std::int64_t memory_bytes = 0;  ///< beyond what this process has mapped
  int seconds = 0;                ///< wall time
};

/// Of an HDF5 file: 1 GiB and four times its size, a minute and a second for each 20 MB of it. Of
/// others an hour, and as much memory as there is.
ChildLimits child_limits(const std::string& path);

/// Runs `read`, which opens the untrusted file `path`, in a child process under `limits`, and
/// returns its exit status: what `read` returns. HDF5 1.10 itself crashes on some damaged files, or
/// loops, or takes all memory; then throws Error{corrupt_file} here. `read` must not throw. Call it
/// before the process has threads of its own.
int run_isolated(const std::string& path, const std::function<int()>& read,
                 ChildLimits limits = {});

/// Opens each HDF5 file of `paths` in a child process first, and throws the error that it met, or
/// Error{corrupt_file} if it crashed. All objects of a capture are opened and the ends of each
/// dataset are read, other files whole: costs little beside reading them. Files that are not HDF5,
/// and names of no file, are passed over.
void check_isolated(const std::vector<std::string>& paths);

/// `check_isolated` for a program with threads, at any time and from any of them: the checks run in
/// a process that was started before there were threads, each in a child of its own. A file that
/// did not change since (device, inode, size, time) is not checked again; what was wrong with it is
/// thrown again. A file may still change between its check and its reading.
class FileChecker {
 public:
  /// Starts the process; to be called before this one has threads. Throws Error{io}.
  FileChecker();
  ~FileChecker();
  FileChecker(const FileChecker&) = delete;
  FileChecker& operator=(const FileChecker&) = delete;

  void check(const std::vector<std::string>& paths) const;
  /// Checks made so far; those of unchanged files are none.
  int checks() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvscope
