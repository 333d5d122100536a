// What pipeline_bench measures: one JSON line on stdout for each result.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/core/tokens.h"
#include "kvscope/runtime/model.h"

namespace kvscope::bench {

/// Wall seconds of one call.
inline double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The middle value; of an even count, the upper one of the two.
double median(std::vector<double> values);

/// Highest resident memory of this process so far, in MiB.
double peak_memory_mib();

/// Prints one result.
void print(const std::string& name, nlohmann::json values);

/// Deciding from a capture: each method alone on fresh evidence (reads included), then all of them
/// in one call, in interleaved rounds.
void measure_decide(const std::string& capture, const std::vector<std::string>& methods,
                    int threads, int rounds);

/// A method that merges while it reads the prompt, against the plain prefill in chunks of 512: both
/// in this process, in turns.
void measure_merging(const std::shared_ptr<const Model>& model, const TokenTable& prompt,
                     const std::string& text, int rounds);

/// Seconds of a decode step: the forward pass alone, a run whose capture is off, and one with a
/// `window` capture to `out`; in this process, in turns. `header`: of a capture of the prompt.
void measure_overhead(const std::shared_ptr<const Model>& model, const TokenTable& prompt,
                      const CaptureIndex& header, const std::string& out, int steps);

/// Bytes per second of a capture's writer to `out`, and of plain writes beside it: 1 GiB each,
/// until it is on the disk.
void measure_writer(const CaptureIndex& header, const std::string& out, int rounds);

}  // namespace kvscope::bench
