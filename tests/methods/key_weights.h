#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "float64_probe.h"
#include "kvscope/core/decision.h"

namespace kvscope::test {

/// Largest deviation of key weights, relative where they lie outside [-1, 1], and how many there
/// were.
struct Deviation {
  double worst = 0;
  int count = 0;
  int other_pairs = 0;  ///< merges that the golden does not have
  std::vector<double> errors;
  void add(double found, double exact) {
    errors.push_back(std::abs(found - exact) / std::max(1.0, std::abs(exact)));
    worst = std::max(worst, errors.back());
    ++count;
  }
  /// The error that `share` of the weights stay within.
  double quantile(double share) const {
    std::vector<double> sorted = errors;
    std::sort(sorted.begin(), sorted.end());
    return sorted.at(static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1)));
  }
};

/// Key weights of one event against float64 autograd from the cache that the run had then
/// (`Float64Model`). `oracle`: KVSlimmer's, else AsymKV's.
Deviation from_recorded(const Float64Model& model, const RecordedProbe& probe, bool oracle,
                        const Decision& decision, int event);

/// Against one case of a golden of tests/golden/pair_merging.py.
Deviation from_golden(const nlohmann::json& expected, const Decision& decision, int event);

}  // namespace kvscope::test
