#pragma once

#include <vector>

#include "cadences/pair_scores.h"

namespace kvscope::detail {

/// Hessian blocks of one KV head, as scalars: of each mid slot with itself, and of each pair with
/// the sign turned, so that the weights of pair i are diagonal[i] - cross[i] and diagonal[i + 1] -
/// cross[i].
struct CurvatureBlocks {
  std::vector<double> alpha;     ///< [mid] share of attention; empty where queries stay apart
  std::vector<double> diagonal;  ///< [mid]
  std::vector<double> cross;     ///< [pairs]
};

/// Share of the chunk's attention on each mid slot, averaged over queries and the group's heads:
/// sums to 1 over mid.
std::vector<double> attention_shares(const ChunkView& view, int kv_head);

/// The released code's proxy, before history: alpha (1 - 2 alpha) |v - o|_1, v the stored sums or
/// their means, o = sum of alpha v. `cross` is left empty: it follows the history.
CurvatureBlocks residual_proxy(const ChunkView& view, int kv_head, bool mean_values);
/// Cross term alpha_1 alpha_2 (D_1 + D_2) with D = h / (alpha (1 - 2 alpha)), without the division.
std::vector<double> factorised_cross(const std::vector<double>& alpha,
                                     const std::vector<double>& diagonal);

/// L2 norms of c11, c22, c12 with window-averaged shares and mean values.
CurvatureBlocks hessian_norms(const ChunkView& view, int kv_head);
/// The same norms for each query and head with its own attention, then averaged.
CurvatureBlocks hessian_norms_per_query(const ChunkView& view, int kv_head);
/// E^T c with the loss gradient E of each query and head, then averaged.
CurvatureBlocks gradient_blocks(const ChunkView& view, int kv_head);

}  // namespace kvscope::detail
