#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kvscope/capture/recorder.h"
#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {

/// What the planes of one layer need, added up over the chunks of a prefill. Sums and squares add,
/// maxima take the maximum; the newest max(window) queries are kept for the observation windows.
class PrefillStatistics {
 public:
  /// `columns`: statistics over all queries besides the windows.
  PrefillStatistics(const ModelShape& shape, int layer, std::vector<int> windows, bool columns);

  /// What a chunk of `rows` queries from token `first_query` on adds.
  static AttentionWanted wanted(const std::vector<int>& windows, bool columns, int first_query,
                                int rows, int prompt_tokens);
  /// Adds a chunk; the last one (`prompt_tokens` reached) completes the windows.
  void add(const LayerRecord& record, int prompt_tokens);

  at::Tensor sum;            ///< [query_heads, tokens so far]; undefined without columns
  at::Tensor sum_squares;    ///< likewise
  at::Tensor max;            ///< likewise
  at::Tensor chunk_lse;      ///< [query_heads, n] of the newest chunk
  at::Tensor chunk_entropy;  ///< [query_heads, n] of the newest chunk; undefined without columns
  at::Tensor last_query;     ///< [query_heads, tokens]; after the last chunk
  at::Tensor self_check;     ///< [query_heads]; after the last chunk
  std::vector<WindowStats> windows;  ///< after the last chunk

 private:
  void add_columns(const AttentionStats& stats);
  void remember(const LayerRecord& record);
  void finish(const AttentionStats& stats, int prompt_tokens);
  /// |sum over tokens - rows| / rows of each head.
  static at::Tensor residual(const at::Tensor& sum, int rows);
  void finish_windows(const LayerRecord& record, int prompt_tokens);

  AttentionStatsOptions options_;
  std::vector<int> window_sizes_;
  bool columns_;
  at::Tensor tail_queries_;  ///< [query_heads, up to max window, head_dim]
  at::Tensor tail_lse_;
};

}  // namespace kvscope::detail
