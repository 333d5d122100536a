#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kvscope/core/hook_point.h"
#include "kvscope/kernels/attention_stats.h"
#include "layer_state.h"
#include "loaded_model.h"

namespace kvscope::detail {

/// What one layer of a pass shows to whoever watches, right after its attention.
struct LayerPass {
  int layer = 0;
  at::Tensor queries;        ///< [query_heads, rows, head_dim] float32 post-RoPE
  at::Tensor keys_pre_rope;  ///< [kv_heads, rows, head_dim] float32, if the watch wants them
  at::Tensor lse;     ///< [query_heads, rows], or of the newest rows only (`PassWatch::rows`)
  at::Tensor output;  ///< [query_heads, rows of lse, head_dim] attention output, before W_O
  at::Tensor hidden;  ///< [rows, hidden_dim] residual stream that went in; changes after the call
  std::span<const std::int32_t> positions;  ///< [rows] as this layer counts them
  const AttentionStats& stats;  ///< what `PassWatch::statistics` wanted, or the LSE alone
  const at::Tensor& keys;    ///< [kv_heads, slots, head_dim] of the cache, these tokens' included
  const at::Tensor& values;  ///< likewise
};

/// Who watches a pass. Every member may be empty.
struct PassWatch {
  std::function<void(const LayerPass&)> layer;
  bool keys_pre_rope = false;  ///< `layer` reads them
  /// How many of the newest rows' LSE `layer` needs in this layer; at least what is asked is
  /// computed.
  std::function<int(int layer, int rows)> rows;
  /// Statistics of this pass's queries that `layer` is to be shown; all rows' LSE must be needed.
  std::function<AttentionWanted(int layer)> statistics;
  std::function<void(int layer)> progress;
  /// Sees every hook point; needs `PassInput::all_rows`, and keeps the MLP from working in blocks.
  /// Tensors are in the type they are computed in and valid during the call only.
  std::function<void(HookPoint point, int layer, const at::Tensor& tensor)> hook;
  const std::atomic<bool>* stop = nullptr;
};

/// Tokens to be run behind what the cache holds.
struct PassInput {
  std::span<const std::int32_t> ids;
  std::span<const std::int32_t> positions;
  int first_token = 0;
  int prompt_tokens = 0;  ///< growing rotations start from the table of so long a sequence
  bool all_rows = false;  ///< final hidden states of every row, not only of the newest
};

/// Runs the tokens through all layers and appends them to the cache. Returns normalised final
/// hidden states in the model's type: [1 or rows, hidden_dim]. Throws Error{interrupted} when
/// `stop` is set; whatever it throws, the cache is then as before.
at::Tensor run_pass(const LoadedModel& model, std::vector<LayerState>& layers,
                    const PassInput& input, const PassWatch& watch);

/// Logits of hidden states: [rows, vocabulary] float32.
at::Tensor head_logits(const LoadedModel& model, const at::Tensor& hidden);

}  // namespace kvscope::detail
