#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "attention_backward.h"
#include "kvscope/evidence/layer_evidence.h"
#include "layer_state.h"
#include "layer_statistics.h"
#include "loaded_model.h"

namespace kvscope::detail {

/// Gradients of a pass that is being observed; undefined where none were asked for.
struct PassGradient {
  at::Tensor keys;           ///< [kv_heads, slots, head_dim] pre-RoPE
  at::Tensor output;         ///< [query_heads, rows, head_dim]
  AttentionTrace attention;  ///< set in float64: attention of the whole pass comes from it
};

/// Evidence of one layer of a live run; refers to the run's state until its next forward or apply.
class LiveEvidence final : public LayerEvidence {
 public:
  LiveEvidence(std::shared_ptr<const LoadedModel> model, const LayerState& state,
               const LayerStatistics& statistics, const Moment& moment, int prompt_tokens);
  /// The statistics are those of a pass whose tokens are the newest slots, on this very cache.
  /// `sum` [query_heads, slots]: what the slots receive from it, or undefined.
  void of_pass(const PassGradient& gradient, const at::Tensor& sum);

  const ModelShape& shape() const override { return model_->shape(); }
  Moment moment() const override { return moment_; }
  const SlotTable& slots() const override { return slots_; }
  at::Tensor keys(Frame frame) const override;
  at::Tensor values() const override;
  at::Tensor queries(int newest) const override;
  at::Tensor attention(int newest) const override;
  at::Tensor attention_sum() const override;
  at::Tensor decode_attention_sum() const override;
  at::Tensor attention_sum_squares() const override;
  at::Tensor attention_max() const override;
  at::Tensor window_sum(int window) const override;
  at::Tensor window_sum_squares(int window) const override;
  at::Tensor last_query() const override;
  at::Tensor lse(int newest) const override;
  at::Tensor key_norm() const override;
  at::Tensor projected_value_norm(int order) const override;
  at::Tensor output_factor() const override { return model_->output_factor(moment_.layer); }
  at::Tensor output_weights() const override { return model_->output_weights(moment_.layer); }
  at::Tensor key_gradient() const override;
  at::Tensor output_gradient() const override;
  std::uint64_t random_seed() const override { return 0; }

 private:
  template <typename Compute>
  at::Tensor remembered(const char* name, int argument, const Compute& compute) const;
  void check_newest(int newest) const;
  at::Tensor columns(const at::Tensor& statistic, const char* name) const;
  at::Tensor window_rows(int window) const;
  at::Tensor pass_sum() const;

  std::shared_ptr<const LoadedModel> model_;
  const LayerState& state_;
  const LayerStatistics& statistics_;
  Moment moment_;
  int prompt_tokens_;
  SlotTable slots_;
  bool of_pass_ = false;
  at::Tensor pass_sum_;
  PassGradient gradient_;
  mutable std::map<std::pair<std::string, int>, at::Tensor> memo_;
};

}  // namespace kvscope::detail
