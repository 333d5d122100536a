#pragma once

#include <cstdint>
#include <string>

namespace kvscope {

/// How far a run has come; the values of /status/state (specs/probe.md 5.2).
enum class CaptureState : std::uint8_t {
  unused = 0,
  loading = 1,
  prefill = 2,
  decode = 3,
  done = 4,
  stopped = 5,  ///< by the user
  error = 6,
  disk_full = 7,
};

/// "prefill", "stopped by the user", ...
const char* state_name(int state);

/// Whether a process has the capture open for writing: a live file is locked by its writer.
bool being_written(const std::string& path);

}  // namespace kvscope
