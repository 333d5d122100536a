#pragma once

#include "kvscope/core/decision.h"

namespace kvscope {

class CaptureReader;

/// Which queries a decision is judged by (DESIGN section 3).
struct MetricsOptions {
  enum class Queries { decode_or_last, last, none };
  Queries queries = Queries::decode_or_last;
  int last =
      64;  ///< used by `last`, and by `decode_or_last` when the capture has no decode queries
  int sinks = 4;  ///< left out of retained_mass_no_sinks
  /// "decode", "last:64", "none".
  static MetricsOptions parse(const std::string& text);
};

/// Fills `metrics` of every decision; each layer is read once for all of them.
///   output_error[l, h]  = ||o_full - o_compressed||_F / ||o_full||_F over the queries, o the
///   head's
///                         attention output through W_O (d x d factor), compressed by
///                         `apply_decision`
///   retained_mass[l, h] = share of attention on tokens that hold a slot, mean over the queries
///   lost_error[l, g, t] = error of losing token t alone (specs/baselines.md 0.9), group mean; 0 if
///   kept
void compute_metrics(const CaptureReader& capture, std::vector<Decision>& decisions,
                     const MetricsOptions& options);

}  // namespace kvscope
