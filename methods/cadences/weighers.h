#pragma once

#include <memory>

#include "cadences/pair_weigher.h"

namespace kvscope::detail {

/// AsymKV. Paper: Cui and Xu 2025, arXiv:2506.05410.
std::unique_ptr<PairWeigher> make_squared_gradients(KeyGradient gradient);

/// KVSlimmer's three forms. Paper: Liu et al. 2026, arXiv:2603.00907.
struct CurvatureOptions {
  enum class Variant {
    code,    ///< L1 deviation of values, history, factorised cross term: the released code
    paper,   ///< L2 norms of the three Hessian vectors: the published formula
    oracle,  ///< the same blocks with true gradients, before the gradient is eliminated
  };
  Variant variant = Variant::code;
  bool mean_values = false;  ///< code: proxy on V / l instead of the stored sums
  bool history = true;       ///< code: running mean over chunks
  bool per_query = false;    ///< paper: norms for each query and head, then averaged
  KeyGradient gradient = KeyGradient::float32;  ///< oracle: number type of its gradients
  bool safe = false;         ///< weights clamped to [0, 1]; one half each where they cancel
};
std::unique_ptr<PairWeigher> make_curvature(const CurvatureOptions& options);

}  // namespace kvscope::detail
