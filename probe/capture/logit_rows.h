#pragma once

#include <ATen/core/Tensor.h>

#include "kvscope/capture/recorder.h"
#include "kvscope/capture/request.h"
#include "writer_thread.h"

namespace kvscope::detail {

/// Logits of one query head, scale and softcap in, -inf where a key is not visible: queries [n,
/// head_dim] at `positions` [n] int64, keys [T, head_dim], float32 or
/// bfloat16, at 0 to T - 1 -> [n, T] float32.
at::Tensor attention_logits(const at::Tensor& queries, const at::Tensor& keys,
                            const at::Tensor& positions, const ModelShape& shape, int window);

/// Attention logits of the prompt's chosen tokens, and of steps: `/layers/LLL/logits_attention` and
/// `/steps/logits_attention`.
class LogitRows {
 public:
  LogitRows(const CaptureRequest& request, const CaptureIndex& index, const CaptureChoice& choice,
            WriterThread& thread)
      : request_(request), index_(index), choice_(choice), thread_(thread) {}

  /// A chunk of the prompt.
  void add_prompt(const LayerRecord& record);
  /// One layer of a stored step; `row`: index of the layer among the captured ones. A merged slot's
  /// logit stands at its own token, without the multiplicity.
  void add_step(int series_row, int row, const LayerRecord& record);

 private:
  /// What a step's query gives to the tokens of one head: [tokens seen].
  at::Tensor step_row(const LayerRecord& record, int query_head) const;

  const CaptureRequest& request_;
  const CaptureIndex& index_;
  const CaptureChoice& choice_;
  WriterThread& thread_;
};

/// Datasets of the request's attention logits and key gradients.
std::vector<DatasetSpec> logit_datasets(const CaptureRequest& request, const ModelShape& shape,
                                        int prompt_tokens, ElementType cache_type);

}  // namespace kvscope::detail
