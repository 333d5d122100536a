#pragma once

#include <functional>
#include <string>

namespace kvscope::cli {

/// `run_isolated` for a subcommand: `read` may throw; the child reports what it throws and exits
/// with the status of the error.
int read_isolated(const std::string& path, const std::function<int()>& read);

}  // namespace kvscope::cli
