#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "kvscope/capture/request.h"
#include "kvscope/core/capture_index.h"
#include "kvscope/core/error.h"
#include "kvscope/core/slots.h"
#include "kvscope/core/tokens.h"
#include "kvscope/kernels/attention_stats.h"
#include "kvscope/storage/capture_state.h"

namespace kvscope {

/// Why a run that threw `error` ends; what its live file says.
CaptureState state_after(const Error& error);

/// What one layer of one forward pass (a prefill chunk, or a decode step) offers to the recorder.
struct LayerRecord {
  int layer = 0;
  int first_query = 0;  ///< position of queries[0]
  at::Tensor queries;   ///< [query_heads, n, head_dim] post-RoPE
  /// [kv_heads, first_query + n, head_dim] post-RoPE, cache included; float32, or the cache's type
  at::Tensor keys;
  at::Tensor values;         ///< likewise, as it lies in the cache
  at::Tensor keys_pre_rope;  ///< [kv_heads, n, head_dim] of this pass, or undefined
  at::Tensor lse;            ///< [query_heads, n] or undefined
  /// Of a decode step on a cache that lost or merged tokens: what its slots stand for (keys and
  /// values are then [kv_heads, slots, head_dim]) and what the query sees of them,
  /// [query_heads, slots], the mass of whole slots. Empty and undefined: slot = token.
  SlotTable slots = {};
  at::Tensor attention = {};
  at::Tensor output = {};  ///< [query_heads, n, head_dim] attention output before W_O, or undefined
  /// What the pass already knows of its attention. Computed from queries, keys and `lse` where it
  /// is less than `Recorder::wanted`.
  AttentionStats stats = {};
};

/// Writes a run down while it happens: reductions on the calling thread, files on a writer thread.
/// Nothing is kept beyond one layer's work space and the queue of finished planes. Errors of the
/// writer surface at the next call. Where the disk is slower than the run, the run waits; numbers
/// of decode steps are thinned out after a second (`CaptureRequest::never_drop`), and what is left
/// out is listed in /status/dropped. Destroyed without `finish`, it leaves no file.
class Recorder {
 public:
  /// `output_factor(layer)` -> [query_heads, head_dim, head_dim] for projected value norms.
  Recorder(const std::string& path, const CaptureRequest& request, const CaptureIndex& index,
           const TokenTable& prompt, std::function<at::Tensor(int layer)> output_factor,
           std::function<at::Tensor(int layer)> output_weights);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  bool wants(int layer) const;
  /// Attention statistics that the record of a recorded layer with a full cache is to hold, of
  /// `rows` queries from token `first_query` on, at a step (0 = the prompt).
  AttentionWanted wanted(int step, int first_query, int rows) const;
  /// Whether `keys_gradient` is expected.
  bool wants_keys_gradient() const;
  /// Whether hook points of a step (0 = the prompt) are stored: then the pass must show them all.
  bool wants_hooks(int step) const;
  /// Whether `hook` is to be given logits of any of `count` tokens from `first_token` on.
  bool wants_logits(int step, int first_token, std::int64_t count) const;
  /// What a pass shows at a hook point, in its type and on its device; what was not asked for is
  /// passed over. Of layer l, between `prefill_layer` or `decode_layer` of l and of the next
  /// layer, or before.
  void hook(HookPoint point, int layer, int step, int first_token, const at::Tensor& tensor);
  /// d loss / d keys before RoPE of one layer, [kv_heads, prompt_tokens, head_dim], of the mean
  /// next-token loss of the whole prompt; for a request with `keys_gradient`, before the prompt.
  void keys_gradient(int layer, const at::Tensor& gradient);
  /// A chunk of the prompt. Chunks of one layer come in order; the last one completes the layer.
  void prefill_layer(const LayerRecord& record);
  /// What the prompt ends in: [vocabulary], or undefined where the run does not compute it. The top
  /// 64 are stored.
  void prefill_logits(const at::Tensor& logits);
  /// One decode step's layer. A step that the request left out costs nothing.
  void decode_layer(int step, const LayerRecord& record);
  /// One decode step as a whole: the token that was fed and the top 64 of the next-token
  /// distribution (of undefined logits none).
  void decode_step(int step, std::int32_t token, const std::string& piece, const at::Tensor& logits,
                   Segment segment = Segment::generated);
  /// Where the run's numbers first were NaN or infinite, in words: layer, what, step; empty = so
  /// far nowhere. The file holds them as they are, and says so at `/reduce/lse` (attribute
  /// `nonfinite`).
  const std::string& first_nonfinite() const;
  /// What was left out so far because the disk was slower than the run.
  std::int64_t dropped_bytes() const;
  /// Drains the writer, renames the file. `steps`: decode steps taken; `message`: see
  /// `CaptureWriter::finish`.
  void finish(int steps, const std::string& message = {});
  /// Ends a live capture early: all whole steps are committed, the file says why it ends. A batch
  /// capture leaves no file.
  void stop(CaptureState state, const std::string& message) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvscope
