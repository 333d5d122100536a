#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "kvscope/capture/recorder.h"

namespace kvscope::detail {

/// What is kept of whole attention maps without keeping them: the keys each query attends to most,
/// and pyramids of sums and maxima over square blocks. One block of queries of one head is in
/// memory at a time.
class MapReductions {
 public:
  /// Sides of the blocks of each level: `block`, 2 `block`, ... while a level has more than one
  /// block.
  static std::vector<int> levels(int block, int prompt_tokens);

  /// `query_heads`: the heads looked at; results have a row for each of them. `segments`: what
  /// tokens belong to, [prompt_tokens, columns] of 0 and 1, or undefined.
  MapReductions(const ModelShape& shape, const CaptureRequest& request,
                std::vector<int> query_heads, int prompt_tokens, at::Tensor segments);

  /// A chunk of the prompt; `lse` [query_heads, n]. `top` receives, for each head, the position of
  /// its first query, keys [n', k] int32 and probabilities [n', k], most attended first (equal: the
  /// lower token); -1 and NaN where fewer keys are visible.
  using Top = std::function<void(int head_row, int first_query, const at::Tensor& keys,
                                 const at::Tensor& probabilities)>;
  /// Likewise: attention the queries give to each segment, [n', columns].
  using BySegment = std::function<void(int head_row, int first_query, const at::Tensor& received)>;
  void add(const LayerRecord& record, const at::Tensor& lse, const Top& top,
           const BySegment& by_segment);

  /// [query_heads, blocks, blocks] of one level, after the last chunk.
  at::Tensor pooled_sum(int level) const;
  at::Tensor pooled_max(int level) const;

 private:
  void pool(const at::Tensor& tile, int head_row, int first_query);

  const ModelShape& shape_;
  std::vector<int> query_heads_;
  int top_keys_;
  int block_;
  at::Tensor segments_;
  at::Tensor
      sum_;  ///< [query_heads, blocks, blocks] of the finest level; undefined without pooling
  at::Tensor max_;
};

}  // namespace kvscope::detail
