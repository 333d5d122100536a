#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "datasets.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope::detail {

/// What happens to a write when the queue is full (specs/probe.md 4.3).
enum class WriteClass {
  fact,    ///< tokens, the prompt's planes, times, status: the run waits
  series,  ///< numbers of decode steps: waits for a while, then only every n-th step is written
  bulk,    ///< queries, keys, values, maps: waits, or is left out where the policy says so
};
WriteClass class_of(const std::string& dataset);

struct WriterPolicy {
  std::int64_t queue_bytes = queue_limit_bytes;  ///< that may wait
  std::chrono::milliseconds patience{1000};      ///< of one item of a series
  bool never_drop = false;                       ///< series wait for ever
  bool drop_bulk = false;                        ///< bulk does not wait
  std::function<void()> before_write = {};       ///< runs on the writer thread; for tests
};

/// Which steps of the series are written, and what was given up.
class BackPressure {
 public:
  /// Whether this step of a series is left out because only every n-th is written. `relaxed`: the
  /// queue is nearly empty; after a while of that n is halved.
  bool skips(std::int64_t step, bool relaxed);
  /// The queue stayed full: from `step` on only every second, fourth, ... step is written.
  void widen(std::int64_t step);
  /// Every n-th step is written now.
  std::int64_t stride() const { return stride_; }

  /// Something was given up. `step` counts from 1; 0 = of the prompt. Reason: see DroppedRange.
  void note(const std::string& dataset, std::int64_t step, std::int64_t bytes, std::int64_t reason);
  /// What was noted since the last call, one range for each dataset, layer and reason.
  std::vector<DroppedRange> take();
  std::int64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  std::int64_t stride_ = 1;
  std::int64_t changed_at_ = 0;  ///< the step at which the stride last changed
  std::int64_t dropped_bytes_ = 0;
  std::map<std::pair<std::string, std::int64_t>, DroppedRange> open_;  ///< by dataset and reason
};

}  // namespace kvscope::detail
