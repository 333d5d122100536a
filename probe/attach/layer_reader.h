#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <vector>

#include "attention_view.h"
#include "cache_slots.h"
#include "cut_log.h"
#include "kvscope/attach/attached_run.h"
#include "kvscope/capture/recorder.h"
#include "mask_check.h"

namespace kvscope::detail {

/// Turns calls of an attention function into what the recorder takes, layer by layer, and follows
/// what others do to the cache between passes. `index` and `request` must outlive it.
class LayerReader {
 public:
  LayerReader(const CaptureIndex& index, const CaptureRequest& request);

  /// A pass of `rows` tokens behind `seen` others.
  void begin_pass(int seen, int rows);
  /// A chunk of the prompt. Throws Error{unsupported} if the mask is not the layer's, or the cache
  /// lost tokens.
  LayerRecord prompt(const AttentionCall& call);
  /// After the prompt: a record for each of the first `count` rows. `step`: the last one recorded.
  /// Throws as `prompt`, and for a cut that nobody announced, or that cannot be traced to tokens.
  std::vector<LayerRecord> steps(const AttentionCall& call, int count, int step);
  /// Nothing of the prompt comes any more.
  void end_prompt();
  const CutLog& cuts() const { return cuts_; }

 private:
  /// What is known of a layer between passes.
  struct Layer {
    explicit Layer(int kv_heads) : slots(kv_heads) {}
    CacheSlots slots;
    at::Tensor keys;    ///< [kv_heads, prompt_tokens, head_dim] of a sliding layer read in chunks
    at::Tensor values;  ///< likewise
  };
  /// Whether the recorder hands keys and values of the prompt on to the writer, which reads them
  /// later, when the run may have written over its cache.
  bool keeps_tensors() const {
    return request_.profile >= Profile::qkv || request_.snapshots != "none";
  }
  void whole_prompt_rows(LayerRecord& record, Layer& layer, Columns columns) const;
  void follow_cache(const AttentionCall& call, int step);
  LayerRecord step_record(const AttentionCall& call, int row, Columns columns) const;

  const CaptureIndex& index_;
  const CaptureRequest& request_;
  std::map<int, Layer> layers_;
  MaskCheck masks_;
  CutLog cuts_;
  int seen_ = 0;
  int rows_ = 0;
};

}  // namespace kvscope::detail
