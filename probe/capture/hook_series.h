#pragma once

#include <ATen/core/Tensor.h>

#include <map>

#include "kvscope/capture/request.h"
#include "writer_thread.h"

namespace kvscope::detail {

/// What is stored of hook points: chosen rows of the prompt as they come, and one row a chosen
/// decode step.
class HookSeries {
 public:
  HookSeries(const CaptureRequest& request, const CaptureChoice& choice, WriterThread& thread)
      : request_(request), choice_(choice), thread_(thread) {}

  bool wants(HookPoint point, bool prompt) const;
  /// Whether any of `count` prompt tokens from `first_token` on is stored.
  bool wants_tokens(int first_token, std::int64_t count) const;
  /// `tensor` [n, columns] or [heads, n, head_dim] of tokens first_token, ...; valid during the
  /// call only.
  void add_prompt(HookPoint point, int layer, int first_token, const at::Tensor& tensor);
  /// d loss / d keys before RoPE of the whole prompt, [kv_heads, prompt_tokens, head_dim].
  void add_keys_gradient(int layer, const at::Tensor& gradient);
  /// The step's one row of `tensor`; `row`: index of the layer among the captured ones, any for a
  /// point of the model.
  void add_step(HookPoint point, int row, const at::Tensor& tensor);
  /// Writes what `add_step` gathered as row `series_row` of /steps.
  void end_step(int series_row);

 private:
  /// Writes the chosen rows of `tensor`, whose heads are chosen already.
  void put_rows(const std::string& dataset, int first_token, const at::Tensor& tensor);
  at::Tensor chosen_heads(HookPoint point, const at::Tensor& tensor) const;

  const CaptureRequest& request_;
  const CaptureChoice& choice_;
  WriterThread& thread_;
  std::map<HookPoint, at::Tensor> step_;  ///< [layers, ...] or [columns]
};

}  // namespace kvscope::detail
