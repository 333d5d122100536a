#pragma once

#include <array>
#include <string>
#include <vector>

#include "kvscope/core/shape.h"
#include "kvscope/spectral/analyze.h"

namespace kvscope {
class ModelFile;
}

namespace kvscope::spectral {

/// Sizes of the leading subspaces that are compared; those above head_dim stay NaN.
inline constexpr std::array<int, 5> overlap_sizes = {1, 4, 16, 64, 128};

/// What pairs of projections of one layer show; vectors are empty where a projection is unusable.
struct LayerProducts {
  /// [query_heads][head_dim] descending: W_Q^(h)T W_K^(g), before RoPE.
  std::vector<std::vector<double>> qk;
  /// [query_heads][head_dim] descending: W_O^(h) W_V^(g).
  std::vector<std::vector<double>> ov;
  /// [query_heads][2 head_dim]: real and imaginary part in turn of the eigenvalues of W_O^(h)
  /// W_V^(g) that may differ from 0, largest modulus first; only if asked.
  std::vector<std::vector<double>> ov_eigenvalues;
  /// [query_heads][overlap_sizes]: |V_Q,k^T V_K,k|_F^2 / k of the top k right subspaces.
  std::vector<double> overlap;
  std::vector<double> gram_qk;  ///< [query_heads], gram_alignment of a head and its KV head
  std::vector<double> gram_qq;  ///< [query_heads, query_heads]
  std::vector<double> gram_kv;  ///< [kv_heads]
  std::vector<double> gram_kk;  ///< [kv_heads, kv_heads]
  std::vector<double> gram_vv;  ///< [kv_heads, kv_heads]
};

/// The products of one layer, each through head_dim x head_dim matrices: singular values of W_A^T
/// W_B are those of R_A R_B^T with R from the thin QR of the tall factors. On the calling thread;
/// in memory W_Q or W_O, W_K and W_V as float32. With `fast` only the gram_ alignments, which need
/// no decomposition.
LayerProducts layer_products(const ModelFile& model, int layer, const SpectralOptions& options);

/// Metrics of s^2 for s the singular values of the product of two independent Gaussian factors
/// [head_dim, hidden_dim], from seeded draws of their R.
struct ProductNull {
  double participation_ratio = 0;
  double erank_energy = 0;
  double erank_sv = 0;
  double k90 = 0;
};
ProductNull gaussian_product_null(int head_dim, int hidden_dim, std::uint64_t seed);

}  // namespace kvscope::spectral
