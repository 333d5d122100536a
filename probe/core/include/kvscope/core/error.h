#pragma once

#include <stdexcept>
#include <string>

namespace kvscope {

/// What went wrong, coarse enough to branch on.
enum class ErrorCode {
  failed,        ///< the request could not be carried out
  usage,         ///< the caller or the command line asked for something that does not exist
  missing_data,  ///< a capture or a run lacks what was asked for
  corrupt_file,  ///< a file is damaged, truncated, foreign or contradicts itself
  unsupported,   ///< known, but outside what kvscope does
  io,            ///< the operating system refused: not found, permission, disk full
  interrupted,   ///< the user stopped the run
};

/// The one exception type of kvscope: what is wrong, where, and how to fix it.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string what_is_wrong, std::string where = {}, std::string fix = {});

  ErrorCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  const std::string& where() const noexcept { return where_; }
  const std::string& fix() const noexcept { return fix_; }

 private:
  ErrorCode code_;
  std::string message_;
  std::string where_;
  std::string fix_;
};

/// Exit status of a program that failed with `error`: 1 failed, 2 wrong usage.
int exit_status(const Error& error) noexcept;

/// The candidate closest to `name` by edit distance; empty if none is near. For "did you mean".
std::string nearest_name(const std::string& name, const std::string* candidates, int count);

}  // namespace kvscope

/// Throws kvscope::Error{code, what, where, fix} unless `condition` holds. In every build; for what
/// a caller or a file can get wrong. The message arguments are evaluated only on failure.
#define KVSCOPE_CHECK(condition, ...)      \
  do {                                     \
    if (!(condition)) {                    \
      throw ::kvscope::Error(__VA_ARGS__); \
    }                                      \
  } while (false)
