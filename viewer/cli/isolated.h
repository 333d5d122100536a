#pragma once

#include <functional>
#include <string>

namespace kvscope::cli {

/// Runs `read`, which opens the untrusted file `path`, in a child process, and returns its exit
/// status: what `read` returns, or 1 after an exception, which the child has reported. HDF5 1.10
/// itself crashes on some damaged files; then throws Error{corrupt_file} here instead.
int read_isolated(const std::string& path, const std::function<int()>& read);

}  // namespace kvscope::cli
