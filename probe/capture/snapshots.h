#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kvscope/capture/request.h"
#include "step_attention.h"
#include "writer_thread.h"

namespace kvscope::detail {

/// The cache as it stood at chosen steps (0 = after the prompt): what its slots stand for, the
/// attention each token has received so far, and, where the profile stores tensors, its keys and
/// values.
class Snapshots {
 public:
  Snapshots(const CaptureRequest& request, const CaptureIndex& index, const CaptureChoice& choice,
            WriterThread& thread);

  bool any() const { return !choice_.snapshots.empty(); }
  /// A layer's prompt: attention_sum [query_heads, prompt_tokens].
  void add_prompt(int row, const LayerRecord& record, const at::Tensor& attention_sum);
  /// A layer of every decode step, in turn.
  void add_step(int step, int row, const LayerRecord& record, const StepAttention& attention);
  /// All layers of the step (0: of the prompt) are there.
  void end_step(int step);

 private:
  /// Index among the snapshots; -1 if none is taken at this step.
  int snapshot_of(int step) const;
  void put(const char* name, int snapshot, int row, const at::Tensor& values, bool query_heads);
  void write(int snapshot, int row, const LayerRecord& record, const SlotTable& slots, int tokens);

  const CaptureRequest& request_;
  const CaptureIndex& index_;
  const CaptureChoice& choice_;
  WriterThread& thread_;
  std::vector<at::Tensor> sums_;  ///< of each captured layer: [query_heads, planned tokens]
};

/// Datasets of the request's snapshots.
std::vector<DatasetSpec> snapshot_datasets(const CaptureRequest& request, const ModelShape& shape,
                                           int prompt_tokens, ElementType cache_type);

}  // namespace kvscope::detail
