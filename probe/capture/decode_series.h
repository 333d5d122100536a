#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "kvscope/capture/recorder.h"
#include "step_attention.h"
#include "writer_thread.h"

namespace kvscope::detail {

/// The most probable next tokens.
struct TopLogits {
  at::Tensor token;            ///< [64] int32, descending, equal: the lower id first; -1 beyond
  at::Tensor log_probability;  ///< [64]
};
TopLogits top_logits(const at::Tensor& logits);

/// The /steps series: one row a stored decode step, gathered over its layers.
class DecodeSeries {
 public:
  DecodeSeries(const CaptureRequest& request, const CaptureIndex& index,
               const CaptureChoice& choice, WriterThread& thread,
               std::function<at::Tensor(int layer)> output_factor, at::Tensor segments);

  /// What a stored step's row needs of the attention of a layer's full cache.
  AttentionWanted wanted() const;
  /// `row`: index of the layer among the captured ones.
  void add_layer(int series_row, int row, const LayerRecord& record,
                 const StepAttention& attention);
  /// [query_heads] of the layer that was added last.
  void set_evicted_mass(int row, const at::Tensor& mass) { evicted_mass_[row].copy_(mass); }
  /// Writes row `series_row`.
  void add_step(int series_row, std::int32_t token, const at::Tensor& logits);

 private:
  bool stores_tensors() const {
    return request_.profile == Profile::qkv || request_.profile == Profile::full;
  }
  /// Sinks, and the tokens that get most.
  void put_attention(int row, const StepAttention& attention);
  void put_head(int row, int query_head, const StepAttention& attention);
  /// Masses of slots at their tokens, 0 where a token has none: [query_heads, tokens].
  at::Tensor by_token(const StepAttention& attention, int tokens) const;
  void put(const char* name, int series_row, const at::Tensor& values);

  const CaptureRequest& request_;
  const CaptureIndex& index_;
  const CaptureChoice& choice_;
  WriterThread& thread_;
  std::function<at::Tensor(int layer)> output_factor_;
  at::Tensor segments_;  ///< [planned tokens, segments] of 0 and 1, or undefined
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t stall_before_ = 0;
  at::Tensor entropy_;           ///< [layers, query_heads]
  at::Tensor lse_;               ///< [layers, query_heads]
  at::Tensor sink_mass_;         ///< [layers, query_heads]
  at::Tensor head_output_norm_;  ///< [layers, query_heads]
  at::Tensor evicted_mass_;      ///< [layers, query_heads]
  at::Tensor by_segment_;        ///< [layers, query_heads, segments]
  at::Tensor top_key_;           ///< [layers, query_heads, k] int32
  at::Tensor top_probability_;   ///< [layers, query_heads, k]
  at::Tensor slots_;             ///< [layers, kv_heads] int32
  at::Tensor queries_;           ///< [layers, query_heads, head_dim]
  at::Tensor keys_;              ///< [layers, kv_heads, head_dim]
  at::Tensor values_;            ///< [layers, kv_heads, head_dim]
};

}  // namespace kvscope::detail
