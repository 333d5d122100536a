#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "finite_check.h"
#include "kvscope/capture/recorder.h"
#include "map_reductions.h"
#include "prefill_statistics.h"
#include "sampled_sum.h"
#include "writer_thread.h"

namespace kvscope::detail {

/// What is stored of the prompt, layer by layer: planes of statistics and norms, and the tensors of
/// the profile. Numbers are computed for every head and stored for the chosen ones.
class PromptPlanes {
 public:
  using OfLayer = std::function<at::Tensor(int layer)>;
  PromptPlanes(const CaptureRequest& request, const CaptureIndex& index,
               const CaptureChoice& choice, WriterThread& thread, FiniteCheck& finite,
               OfLayer output_factor, OfLayer output_weights, at::Tensor segments)
      : request_(request),
        index_(index),
        choice_(choice),
        thread_(thread),
        finite_(finite),
        output_factor_(std::move(output_factor)),
        output_weights_(std::move(output_weights)),
        segments_(std::move(segments)) {}

  /// Attention statistics needed of a chunk of `rows` queries from token `first_query` on.
  AttentionWanted wanted(int first_query, int rows) const {
    return PrefillStatistics::wanted(request_.windows, counts_columns(), first_query, rows,
                                     index_.prompt_tokens);
  }
  /// Sees the sums over all queries, [query_heads, prompt_tokens], of each layer as it ends;
  /// undefined in profile `window`.
  using LayerEnd = std::function<void(const LayerRecord& record, const at::Tensor& attention_sum)>;
  /// A chunk of the prompt; `row`: index of the layer among the captured ones. Returns whether it
  /// was the layer's last.
  bool add(const LayerRecord& record, int row, const LayerEnd& end);
  /// Layers whose attention sums miss the number of queries.
  const std::vector<int>& failed_layers() const { return failed_layers_; }

 private:
  enum class Heads { query, kv };
  /// Whether all queries are counted, not only those of windows.
  bool counts_columns() const { return request_.profile != Profile::window; }
  bool stores_tensors() const {
    return request_.profile == Profile::qkv || request_.profile == Profile::full;
  }
  const std::vector<int>& chosen(Heads heads) const {
    return heads == Heads::query ? choice_.query_heads : choice_.kv_heads;
  }
  /// Writes [heads, columns] as columns first.. of one layer's plane, and of what the request has
  /// of it by KV head.
  void put_plane(const std::string& name, int row, const at::Tensor& values, int first = 0,
                 Heads heads = Heads::query);
  /// Writes [heads, rows, columns] as rows first.. of one of the layer's tensors.
  void put_tensor(const char* name, int layer, const at::Tensor& values, std::int64_t first,
                  Heads heads);
  void put_norms(const LayerRecord& record, int row);
  void put_windows(const PrefillStatistics& statistics, int row);
  void put_queries(const LayerRecord& record);
  void reduce_maps(const LayerRecord& record, const at::Tensor& lse, int row);
  void put_pooled(int layer, int row);
  void put_sampled(int layer, int row);
  void put_maps(const LayerRecord& record, const at::Tensor& lse);
  void finish_layer(const LayerRecord& record, const PrefillStatistics& statistics, int row);
  void check_layer(const at::Tensor& residual, int layer);

  const CaptureRequest& request_;
  const CaptureIndex& index_;
  const CaptureChoice& choice_;
  WriterThread& thread_;
  FiniteCheck& finite_;
  OfLayer output_factor_;
  OfLayer output_weights_;
  at::Tensor segments_;  ///< [prompt_tokens, segments] of 0 and 1, or undefined
  std::map<int, MapReductions> open_maps_;
  std::map<int, SampledSum> open_samples_;
  std::map<int, PrefillStatistics> open_;  ///< layers between their first and last chunk
  std::vector<int> failed_layers_;
};

}  // namespace kvscope::detail
