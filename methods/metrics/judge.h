#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "kvscope/core/decision.h"
#include "kvscope/methods/metrics.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope::detail {

/// Which queries judge, as positions: [first, first + count), and what they are called.
struct Population {
  bool decode = false;
  int first = 0;
  int count = 0;
  bool seen_by_method = false;
  std::string name;
};

/// The population `options` asks for, for a decision that cut after `cut_tokens`; count 0 if the
/// capture has no queries, keys or values.
Population choose_population(const CaptureReader& capture, int cut_tokens,
                             const MetricsOptions& options);

/// One layer of a capture, ready to judge: the judging queries against every token they see, full
/// and compressed. Tokens are prompt tokens, then decode tokens.
class LayerJudge {
 public:
  LayerJudge(const CaptureReader& capture, int row, const Population& population, int sinks);

  /// [query_heads] each; `layer` covers a prefix of the tokens, later ones count as kept.
  struct Verdict {
    std::vector<float> output_error;
    std::vector<float> retained_mass;
    std::vector<float> retained_mass_no_sinks;
    std::vector<float> lost_error;  ///< [kv_heads, layer.tokens]
  };
  Verdict judge(const LayerDecision& layer, const CacheForm& form) const;

 private:
  void read(const CaptureReader& capture, int row, const Population& population);
  at::Tensor logits_on(const at::Tensor& keys, const at::Tensor& tokens) const;
  at::Tensor compressed_output(const LayerDecision& layer, const CacheForm& form) const;
  at::Tensor alone_error() const;

  ModelShape shape_;
  int layer_ = 0;
  int sinks_ = 0;
  int first_position_ = 0;
  std::int64_t queries_ = 0;
  at::Tensor q_;              ///< [kv_heads, group * queries, head_dim]
  at::Tensor keys_;           ///< [kv_heads, tokens, head_dim]
  at::Tensor values_;         ///< [kv_heads, tokens, head_dim]
  at::Tensor factor_;         ///< [query_heads, head_dim, head_dim]
  at::Tensor attention_;      ///< [kv_heads, group * queries, tokens]
  at::Tensor output_;         ///< [kv_heads, group * queries, head_dim]
  at::Tensor projected_;      ///< [query_heads, queries, head_dim] output through the factor
  at::Tensor norm_;           ///< [query_heads] Frobenius norm of projected_
  mutable at::Tensor alone_;  ///< [kv_heads, tokens] error of losing each token alone
};

}  // namespace kvscope::detail
