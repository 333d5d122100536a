#pragma once

#include <cstdint>

#include "kvscope/kernels/greedy_diversity.h"

namespace kvscope::detail {

/// One unit in plain memory, all rows contiguous.
struct DiversityUnit {
  const float* scores = nullptr;   ///< [candidates]
  const float* rows = nullptr;     ///< [candidates, dim]
  const float* present = nullptr;  ///< [members, dim]
  int candidates = 0;
  int members = 0;
  int dim = 0;
  int picks = 0;
  std::int32_t* out = nullptr;  ///< [picks]
};

void greedy_diversity_cpu(const DiversityUnit& unit, const GreedyDiversityOptions& options);

}  // namespace kvscope::detail
