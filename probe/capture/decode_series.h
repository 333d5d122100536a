#pragma once

#include <chrono>
#include <cstdint>

#include "kvscope/capture/recorder.h"
#include "writer_thread.h"

namespace kvscope::detail {

/// The /steps series: one row a decode step, gathered over its layers.
class DecodeSeries {
 public:
  DecodeSeries(const CaptureRequest& request, const CaptureIndex& index, WriterThread& thread);

  /// `row`: index of the layer among the captured ones. Steps count from 1.
  void add_layer(int step, int row, const LayerRecord& record);
  void add_step(int step, std::int32_t token, const at::Tensor& logits);

 private:
  void see_tokens(int row, const LayerRecord& record);
  void see_slots(int row, const LayerRecord& record);
  /// masses [query_heads, slots]: sinks and the tokens that get most.
  void put_attention(int row, const at::Tensor& masses, const SlotTable& slots);
  void put(const char* name, int step, const at::Tensor& values);

  const CaptureRequest& request_;
  const CaptureIndex& index_;
  WriterThread& thread_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t stall_before_ = 0;
  at::Tensor entropy_;          ///< [layers, query_heads]
  at::Tensor lse_;              ///< [layers, query_heads]
  at::Tensor sink_mass_;        ///< [layers, query_heads]
  at::Tensor top_key_;          ///< [layers, query_heads, k] int32
  at::Tensor top_probability_;  ///< [layers, query_heads, k]
  at::Tensor slots_;            ///< [layers, kv_heads] int32
  at::Tensor queries_;          ///< [layers, query_heads, head_dim]
  at::Tensor keys_;             ///< [layers, kv_heads, head_dim]
  at::Tensor values_;           ///< [layers, kv_heads, head_dim]
};

}  // namespace kvscope::detail
