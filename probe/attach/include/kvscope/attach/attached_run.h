#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvscope/attach/attach_request.h"
#include "kvscope/core/hook_point.h"
#include "kvscope/storage/capture_state.h"

namespace kvscope {

/// Tokens of one forward pass.
struct FedTokens {
  std::vector<std::int32_t> id;
  std::vector<std::int32_t> position;  ///< as given to RoPE
  std::vector<std::string> piece;      ///< text of each token; empty = not known
};

/// One call of an attention function: n queries over the columns of the cache.
struct AttentionCall {
  int layer = 0;
  at::Tensor query;          ///< [1, query_heads, n, head_dim] post-RoPE, unscaled
  at::Tensor key;            ///< [1, kv_heads, columns, head_dim] post-RoPE, this pass's rows last
  at::Tensor value;          ///< [1, kv_heads, columns, head_dim]
  at::Tensor mask;           ///< as `MaskCheck` takes it; undefined = none
  at::Tensor output;         ///< [1, n, query_heads, head_dim] before W_O, or undefined
  at::Tensor keys_pre_rope;  ///< [kv_heads, n, head_dim] or undefined
  at::Tensor
      hidden_heads;  ///< [cells] int64: KV heads and columns of the cache that no query sees,
  at::Tensor hidden_columns;  ///< whatever they hold; undefined = none
  double scale = 1.0;
  double softcap = 0.0;
  int window = 0;  ///< 0 = global
};

/// How an attached capture ended.
struct AttachedReport {
  std::string path;           ///< of the capture; empty if there is none
  std::string decision_path;  ///< of what was evicted; empty if nothing was
  std::string profile;
  int prompt_tokens = 0;
  int steps = 0;
  std::int64_t dropped_bytes = 0;
  std::vector<std::string> notes;  ///< what the user should be told
  std::string error;               ///< why the capture is not whole; empty if it is
};

/// Writes down a run that another program makes: it says what tokens it feeds, what its attention
/// function is given and what comes out; the file is the one that our own runtime would write.
/// Never stands in the way of the run: nothing here throws but the constructor, and after the first
/// pass an error ends the capture and nothing else.
class AttachedRun {
 public:
  enum class Status {
    running,
    refused,  ///< by the first pass: what is attached to cannot be captured
    ended     ///< by an error later on; the run may go on
  };

  /// output_weights [layers]: W_O of each layer, [hidden_dim, query_heads * head_dim] of any float
  /// type. Throws Error{usage | io} if they do not fit the model, or the output exists.
  AttachedRun(AttachRequest request, std::vector<at::Tensor> output_weights);
  ~AttachedRun();
  AttachedRun(const AttachedRun&) = delete;
  AttachedRun& operator=(const AttachedRun&) = delete;

  /// The whole prompt, before the first pass, for a run that reads it in chunks. Otherwise the
  /// tokens of the first pass are the prompt. `context_tokens`: those before the question.
  void give_prompt(const FedTokens& prompt, int context_tokens);
  /// What compresses the cache, in words, before the first pass; instead of the request's `method`.
  void name_method(const std::string& method);
  void begin_pass(const FedTokens& tokens);
  void attention(const AttentionCall& call);
  /// A hook point of the pass by its name, [n, hidden_dim], [heads, n, head_dim] or [n, vocabulary].
  void hook(const std::string& point, int layer, const at::Tensor& tensor);
  /// logits [rows, vocabulary] of the newest rows of the pass, or undefined.
  void end_pass(const at::Tensor& logits);

  Status status() const;
  /// What was wrong, where and how to fix it, in lines; empty while `running`.
  std::string error() const;

  AttachedReport finish();
  /// Ends the capture early: a live file says why, a batch file is gone.
  AttachedReport stop(CaptureState state, const std::string& message);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// An error as its lines: what is wrong, "where: ...", "fix: ...".
std::string error_lines(const std::exception& error);

}  // namespace kvscope
