#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "float64_probe.h"
#include "kvscope/core/decision.h"

namespace kvscope::test {

/// Largest deviation of key weights, relative where they lie outside [-1, 1], and how many there
/// were.
struct Deviation {
  double worst = 0;
  int count = 0;
  int other_pairs = 0;  ///< merges that the golden does not have
  void add(double found, double exact) {
    worst = std::max(worst, std::abs(found - exact) / std::max(1.0, std::abs(exact)));
    ++count;
  }
};

/// Key weights of one event against float64 autograd from the cache that the run had then
/// (`Float64Model`). `oracle`: KVSlimmer's, else AsymKV's.
Deviation from_recorded(const Float64Model& model, const RecordedProbe& probe, bool oracle,
                        const Decision& decision, int event);

/// Against one case of a golden of tests/golden/pair_merging.py.
Deviation from_golden(const nlohmann::json& expected, const Decision& decision, int event);

}  // namespace kvscope::test
