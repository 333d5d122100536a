#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace kvscope {

/// What a child process may take.
struct ChildLimits {
  int cpu_ms = 2000;
  int wall_seconds = 120;
  std::int64_t memory_bytes = std::int64_t{512} << 20;  ///< beyond what this process holds
  std::int64_t output_bytes = std::int64_t{16} << 20;
};

enum class ChildOutcome { done, out_of_memory, out_of_time, too_much_output, crashed };

struct ChildResult {
  ChildOutcome outcome = ChildOutcome::crashed;
  std::string text;  ///< what `work` returned, if done
};

/// Runs `work` in a copy of this process and returns its text; whatever it does, this process goes
/// on: a crash, an endless loop or too much memory becomes an outcome. What it prints is lost. An
/// exception other than std::bad_alloc counts as a crash. Throws Error{io} if no process starts.
ChildResult run_in_child(const ChildLimits& limits, const std::function<std::string()>& work);

}  // namespace kvscope
