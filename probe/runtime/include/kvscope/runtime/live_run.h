#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kvscope/capture/recorder.h"
#include "kvscope/core/hook_point.h"
#include "kvscope/evidence/model_run.h"
#include "kvscope/runtime/model.h"

namespace kvscope {

struct LiveRunOptions {
  int prefill_chunk = 0;                    ///< tokens of one pass; 0 = the whole prompt at once
  int statistics_window = 64;               ///< queries of the prompt kept for evidence
  bool beyond_context = false;              ///< allow more tokens than the model was made for
  const std::atomic<bool>* stop = nullptr;  ///< set by Ctrl-C; checked at layer boundaries
  std::function<void(int tokens_done, int tokens_total, int layer)> progress;
  /// Sees every hook point of every pass (a prompt chunk, tokens appended, a decode step) on the
  /// calling thread; `first_token` is the pass's first. Tensors are in the type they are computed
  /// in, on the model's device, and valid during the call only. Costs the shortcuts of the last
  /// layer and the MLP. Logits are computed for recorders only, and not shown here.
  std::function<void(HookPoint point, int layer, int first_token, const at::Tensor& tensor)> hook;
};

/// A sequence on a model with its own KV cache: prefill, decode, evidence, decisions.
class LiveRun : public ModelRun {
 public:
  /// `prompt` gives positions and segments; nothing is computed yet. Throws Error{usage} on an
  /// empty prompt or one beyond the model's context length.
  static std::unique_ptr<LiveRun> start(std::shared_ptr<const Model> model, TokenTable prompt,
                                        LiveRunOptions options);

  /// Runs the prompt; statistics for evidence are kept if `statistics`. `recorder` may be null.
  virtual void prefill(bool statistics, Recorder* recorder) = 0;
  /// Feeds one token (the next step); its logits are then `logits()`.
  virtual void decode(std::int32_t token, Recorder* recorder) = 0;
  /// A copy of the whole state, cache included.
  virtual std::unique_ptr<LiveRun> fork() const = 0;
  /// Live key and value bytes, over all layers and heads.
  virtual std::int64_t cache_bytes() const = 0;
  virtual at::Tensor
  prompt_logits() = 0;  ///< [prompt_tokens, vocabulary] float32; runs the head over all rows
};

/// Gives `recorder` d loss / d keys before RoPE of every layer it records, if it wants them: the
/// whole prompt forward in one piece and back, of which nothing stays in `run`. To be called before
/// `prefill`; costs about three passes, and keeps the inputs of all layers meanwhile. The loss is
/// the mean next-token cross entropy of the prompt, a key's gradient that of its row in the cache
/// (what every later query reads), through the layers above it too. Throws Error{usage} on a prompt
/// of one token, Error{failed} if the loss is not finite.
void record_keys_gradient(LiveRun& run, Recorder& recorder);

/// How the next token is drawn.
struct Sampling {
  double temperature = 0;  ///< 0 = greedy
  int top_k = 0;
  double top_p = 1.0;
  std::uint64_t seed = 0;
};
/// Ties go to the lower id; the stream depends on (seed, step) alone.
std::int32_t sample(const at::Tensor& logits, const Sampling& sampling, int step);

}  // namespace kvscope
