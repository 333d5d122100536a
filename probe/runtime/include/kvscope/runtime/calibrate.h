#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "kvscope/core/calibration.h"
#include "kvscope/runtime/model.h"

namespace kvscope {

struct CalibrateOptions {
  /// Longest piece of text read at once, in tokens; at most the model's context. 0 = 4,096 or the
  /// context, whichever is less. Pieces are as equal in length as can be.
  int window = 0;
  std::int32_t bos = -1;             ///< begins every piece; -1 = none
  std::int64_t least_tokens = 1024;  ///< a smaller corpus is refused
  const std::atomic<bool>* stop = nullptr;
  std::function<void(std::int64_t tokens_done, std::int64_t tokens_total)> progress;
};

/// Runs the model over a text and averages its queries and keys before the rotation, per layer,
/// head and band (core/calibration.h), and finds the main direction of its rotated queries.
/// Streaming: memory is that of one piece, and 3,000 queries of every head. Sums in float64. Throws
/// Error{usage} if the corpus has fewer than `least_tokens` tokens, or ids the model does not have;
/// Error{failed} if the model computes numbers that are not finite. Paper: TriAttention,
/// arXiv:2604.04921, section on calibration; its script un-rotates the queries it captures, as we
/// do, but from bfloat16.
Calibration calibrate(const std::shared_ptr<const Model>& model, std::span<const std::int32_t> ids,
                      const CalibrateOptions& options);

}  // namespace kvscope
