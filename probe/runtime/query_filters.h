#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <random>
#include <vector>

namespace kvscope::detail {

/// The main direction of each head's rotated queries, from a random sample of a corpus's rows
/// (Q-Filters, arXiv:2503.02812, the authors' make_filters). Memory: layers * query_heads * sample
/// * head_dim floats.
class QueryFilters {
 public:
  static constexpr std::int64_t sample = 3000;

  /// `total` rows will be read, in order; `sample` of them count, or all.
  QueryFilters(int layers, std::int64_t total);

  /// Draws which of the next `rows` rows count.
  void next_piece(std::int64_t rows);
  /// The rows of the piece in one layer: [query_heads, rows, head_dim].
  void add(int layer, const at::Tensor& queries);

  /// Rows kept of a layer so far.
  std::int64_t rows(int layer) const;
  /// [kv_heads, head_dim]: of each query head the first right singular vector of its rows, turned
  /// against most of them, mean over the group.
  at::Tensor filter(int layer, int kv_heads) const;

 private:
  std::vector<std::vector<at::Tensor>> rows_;  ///< [layers] of [query_heads, rows, head_dim]
  at::Tensor chosen_;                          ///< rows of the piece that count
  std::int64_t left_;                          ///< rows not drawn yet
  std::int64_t wanted_;                        ///< of these
  std::mt19937_64 draws_{1};
};

}  // namespace kvscope::detail
