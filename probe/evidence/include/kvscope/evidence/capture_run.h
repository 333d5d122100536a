#pragma once

#include <memory>
#include <string>

#include "kvscope/core/attention_tile.h"
#include "kvscope/evidence/model_run.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope {

/// A capture seen as a run that stopped after `cut` tokens: the evidence methods decide on.
/// Only prompt statistics whose population ends at the cut are served; the rest are recomputed from
/// Q, K and LSE where the capture has them, else Error{missing_data}.
class CaptureRun : public ModelRun {
 public:
  enum class CutAfter { prompt, context };
  explicit CaptureRun(std::shared_ptr<const CaptureReader> reader,
                      CutAfter cut_after = CutAfter::prompt, std::uint64_t seed = 0);

  const ModelShape& shape() const override;
  const TokenTable& tokens() const override;
  int tokens_seen() const override;
  int step() const override { return 0; }
  bool live() const override { return false; }
  std::string capture_hash() const override;
  std::string model_name() const override;
  std::string model_hash() const override;
  std::unique_ptr<LayerEvidence> layer(int layer) override;
  void forward(std::span<const std::int32_t> token_ids, const ForwardRequest& request) override;
  void apply(const Decision& decision) override;
  at::Tensor logits() override;

  const CaptureReader& reader() const { return *reader_; }

 private:
  std::shared_ptr<const CaptureReader> reader_;
  int cut_ = 0;
  std::uint64_t seed_ = 0;
};

/// Any rectangle of an attention map, exactly, from the captured Q, K and LSE.
AttentionTile capture_tile(const CaptureReader& reader, int layer, int query_head, int first_query,
                           int queries, int first_key, int keys);

}  // namespace kvscope
