#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/core/decision.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope {

/// One thing in which two files differ. Counted over numbers, fates or tokens, or of a fact of the
/// file (then `total` is 0).
struct Difference {
  std::string what;   ///< dataset, plane or fact
  std::string first;  ///< where it differs first, in words; for a fact: its values in A and B
  int layer = -1;     ///< of the first difference; -1 = not of a layer
  std::int64_t count = 0;
  std::int64_t total = 0;
  double largest = 0;   ///< |a - b|; 0 where that means nothing
  double relative = 0;  ///< largest |a - b| over the largest |a| of the plane
};

struct Comparison {
  std::vector<Difference> differences;  ///< in the order of the run: facts, tokens, layer by layer
  int compared = 0;                     ///< planes or datasets held against each other
};

/// How far numbers may lie apart and still count as equal: |a - b| <= absolute + relative |a|.
struct Tolerance {
  double absolute = 0;
  double relative = 0;
};

/// Facts, tokens and every dataset that both captures hold, layer by layer (matched by true index)
/// in the order in which a forward pass makes them; times of steps are left out. Reads a few MiB at
/// a time. Two NaN are equal.
Comparison compare_captures(const CaptureReader& a, const CaptureReader& b, Tolerance tolerance);

/// Facts, fates and reasons, moments of removal, merge edges, slots, scores and metrics.
Comparison compare_decisions(const Decision& a, const Decision& b, Tolerance tolerance);

/// A table, or "no differences".
std::string to_text(const Comparison& comparison);
std::string to_json(const Comparison& comparison);

}  // namespace kvscope
