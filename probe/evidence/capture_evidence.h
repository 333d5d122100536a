#pragma once

#include <map>
#include <memory>
#include <string>

#include "kvscope/evidence/layer_evidence.h"
#include "kvscope/kernels/attention_stats.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope {

/// One layer of a capture, cut after `cut` tokens. Planes of the file are served where their
/// population ends at the cut; the rest is recomputed from the stored queries, keys and LSE.
class CaptureEvidence final : public LayerEvidence {
 public:
  CaptureEvidence(std::shared_ptr<const CaptureReader> reader, int layer, int cut,
                  std::uint64_t seed);

  const ModelShape& shape() const override { return reader_->index().shape; }
  Moment moment() const override { return {layer_, cut_, 0, Phase::prefill}; }
  const SlotTable& slots() const override;
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
  at::Tensor output_factor() const override;
  at::Tensor output_weights() const override;
  std::uint64_t random_seed() const override { return seed_; }

 private:
  bool at_prompt_end() const { return cut_ == reader_->index().prompt_tokens; }
  AttentionStatsOptions attention_options() const;
  at::Tensor plane(const std::string& name) const;
  at::Tensor tensor(const std::string& name) const;
  at::Tensor window_plane(int window, const std::string& name) const;
  const AttentionStats& all_queries() const;
  const WindowStats& recomputed_window(int window) const;
  template <typename Make>
  at::Tensor once(const std::string& key, Make make) const;

  std::shared_ptr<const CaptureReader> reader_;
  int layer_;
  int row_;
  int cut_;
  std::uint64_t seed_;
  mutable SlotTable slots_;
  mutable std::map<std::string, at::Tensor> known_;
  mutable std::map<int, WindowStats> windows_;
  mutable std::unique_ptr<AttentionStats> all_queries_;
};

/// Row of a layer among the captured ones. Throws Error{missing_data} naming --layers.
int captured_row(const CaptureReader& reader, int layer);

}  // namespace kvscope
