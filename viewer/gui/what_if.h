#pragma once

#include <sys/types.h>

#include <chrono>
#include <future>
#include <optional>
#include <string>

#include "kvscope/core/decision.h"

namespace kvscope::gui {

/// A child process `kvscope decide` that tries a method on the open capture; this program links no
/// tensor library.
class DecideJob {
 public:
  /// Starts the program `kvscope` beside this one. Throws Error{unsupported} if there is none,
  /// Error{io} if it cannot be started.
  DecideJob(const std::string& capture, const std::string& method, const std::string& keep);
  /// Ends the child, if it still runs, and removes what it wrote.
  ~DecideJob();
  DecideJob(const DecideJob&) = delete;
  DecideJob& operator=(const DecideJob&) = delete;

  /// The decision, once it is there; nothing while it is being made. Throws Error{failed} with what
  /// the child said, or Error{corrupt_file}.
  std::optional<Decision> poll();
  double seconds() const;

 private:
  std::string folder_;
  pid_t child_ = -1;
  std::future<Decision> loading_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// What the panel edits and shows.
struct WhatIf {
  std::string method;  ///< text; empty = that of decision A
  std::string keep;
  std::string message;  ///< the last error, or what came of it
  bool start = false;   ///< asked for by the panel
  bool cancel = false;
  double running_seconds = -1;  ///< of the child; -1 = none runs
};

}  // namespace kvscope::gui
