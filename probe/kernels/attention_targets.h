#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {

/// The column planes that were asked for. Queries are cut into segments where an observation
/// window or the last query begins, so that one pass serves every population of queries.
class ColumnTargets {
 public:
  ColumnTargets(std::int64_t query_heads, std::int64_t rows, std::int64_t tokens,
                const AttentionWanted& wanted);

  bool any() const { return !targets_.empty(); }
  /// Whether a plane counts the segment's queries.
  bool counts(int segment) const;
  /// Whether a plane wants more of a segment's queries than the sum.
  bool wants_squares(int segment) const;
  int segments() const { return static_cast<int>(bounds_.size()) - 1; }
  /// [segments + 1] row bounds, ascending; rows before the first one are in no plane.
  const std::vector<int>& bounds() const { return bounds_; }
  /// Adds what a segment's queries give keys first_key, ..., of one query head. Different heads and
  /// keys may be added at the same time; segments of one cell in ascending order. Without
  /// `wants_squares`, only `sum` is read.
  void add(int segment, std::int64_t query_head, std::int64_t first_key, std::int64_t keys,
           const float* sum, const float* squares, const float* largest) const;
  /// Where the sums of a segment of one query go that one plane counts, and nothing else in it;
  /// null for any other segment.
  float* only_row(int segment, std::int64_t query_head) const;
  /// Hands the planes over.
  void store(AttentionStats& stats) const;

 private:
  struct Target {
    int first_segment = 0;
    at::Tensor sum;      ///< [query_heads, tokens]
    at::Tensor squares;  ///< likewise, or undefined: the sum alone
    at::Tensor largest;
  };
  void add_target(int first_row, bool sum_only);

  AttentionWanted wanted_;
  std::int64_t query_heads_;
  std::int64_t rows_;
  std::int64_t tokens_;
  std::vector<int> bounds_;
  std::vector<Target> targets_;  ///< the windows', the last query's, all queries'
};

/// |sum over keys - rows| / rows of each query head; 0 without rows.
at::Tensor self_check(const at::Tensor& sum, std::int64_t rows);

}  // namespace kvscope::detail
