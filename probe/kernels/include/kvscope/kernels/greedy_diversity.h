#pragma once

#include <ATen/core/Tensor.h>

namespace kvscope {

/// How a candidate's redundancy follows from its cosines to what has been picked.
struct GreedyDiversityOptions {
  enum class Aggregate { max, mean, sum };
  /// mmr: score - lambda * redundancy. fl: score + lambda * what the candidate adds to the facility
  /// location value, sum over all candidates j of max(0, cosine to the nearest picked row).
  enum class Objective { mmr, fl };
  double lambda = 0.5;  ///< finite, at least 0
  Aggregate aggregate = Aggregate::max;
  bool clip_at_zero = false;  ///< negative cosines count as 0
  Objective objective = Objective::mmr;
};

/// Picks of each unit, one after another: always the candidate of largest objective, of equal ones
/// the lowest index. Redundancy is 0 while nothing has been picked.
///   scores  [units, candidates] float32, finite
///   rows    [units, candidates, dim] float32, what similarity is measured on; finite, any length
///   present [units, members, dim] or undefined: rows that count as picked before the first pick
///   picks   int: how many each unit picks, at most `candidates`
/// Returns [units, picks] int32, in order of picking: the picks of fewer are a prefix of these.
/// Cost: with Aggregate::max (or sum clipped at zero) a candidate is compared with the picks only
/// when it could be next, since its objective never rises; otherwise picks * candidates * dim; fl:
/// candidates^2 * dim. On the CPU, units in parallel; the same picks for any thread count.
/// Throws Error{usage} for shapes, types, devices and numbers that are not as above.
/// Source: Sun et al. 2026, arXiv:2605.14292, in our reading (the paper's formula is not public).
at::Tensor greedy_diversity(const at::Tensor& scores, const at::Tensor& rows,
                            const at::Tensor& present, int picks,
                            const GreedyDiversityOptions& options);

}  // namespace kvscope
