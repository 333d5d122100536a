#pragma once

#include <cstdint>
#include <optional>
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

/// What a capture does not hold although it was asked for: the disk was slower than the run. A row
/// of /status/dropped.
struct DroppedRange {
  std::string dataset;
  int layer = -1;               ///< true index; -1 = of all captured layers
  /// Counts from 1; 0 = of the prompt. Where steps were selected, only those are counted.
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  std::int64_t bytes = 0;   ///< not written
  std::int64_t reason = 0;  ///< 1 = left out whole; n > 1 = only every n-th step was written
};
/// "steps/entropy: steps 33 to 96, one of 2 written, 12288 bytes left out".
std::string dropped_text(const DroppedRange& range);

/// How far a live file has come: what its ring says, without any of its data.
struct CommitMark {
  std::uint64_t sequence = 0;  ///< of the newest commit
  std::uint64_t steps = 0;
  int state = 0;
  int layers_done = 0;
  bool operator==(const CommitMark&) const = default;
};
/// Of a file that a writer has open, or was killed having open; nothing for any other file, and for
/// one that cannot be read.
std::optional<CommitMark> commit_mark(const std::string& path);

/// "prefill", "stopped by the user", ...
const char* state_name(int state);

/// Whether a process has the capture open for writing: a live file is locked by its writer.
bool being_written(const std::string& path);

}  // namespace kvscope
