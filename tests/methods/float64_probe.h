#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kvscope/model/model_file.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::test {

/// One layer's cache as a run stores it, in float64.
struct CachedLayer {
  at::Tensor keys;    ///< [kv_heads, slots, head_dim] pre-RoPE
  at::Tensor values;  ///< [kv_heads, slots, head_dim] sums
  at::Tensor counts;  ///< [slots] multiplicities, those of KV head 0
  std::vector<int> tokens;  ///< [slots]
};

/// What a chunk shows of one layer when it looks back at a cache.
struct ProbedLayer {
  at::Tensor key_gradient;     ///< [kv_heads, slots + rows, head_dim]
  at::Tensor output_gradient;  ///< [query_heads, rows, head_dim]
  at::Tensor attention;        ///< [query_heads, rows, slots + rows], rows sum to 1
  at::Tensor output;           ///< [query_heads, rows, head_dim]
  at::Tensor values;           ///< [kv_heads, slots + rows, head_dim] sums
};

/// A Llama model in float64, LibTorch's autograd over the whole graph at once: written from
/// specs/asymkv.md for the tests, sharing nothing with the runtime.
class Float64Model {
 public:
  explicit Float64Model(const ModelFile& file);
  std::vector<ProbedLayer> probe(const std::vector<CachedLayer>& cache,
                                 std::span<const std::int32_t> ids) const;

 private:
  const at::Tensor& weight(Weight name, int layer) const { return weights_.at({name, layer}); }
  at::Tensor norm(const at::Tensor& x, Weight name, int layer) const;
  at::Tensor rotated(const at::Tensor& x, const at::Tensor& positions) const;

  ModelConfig config_;
  std::map<std::pair<Weight, int>, at::Tensor> weights_;
};

/// What a look back with gradients had before it.
struct RecordedProbe {
  std::vector<CachedLayer> cache;
  std::vector<std::int32_t> ids;
  int first = 0;  ///< token of ids[0]
};

/// A live run that writes down the cache before every pass with gradients.
class RecordingRun final : public ModelRun {
 public:
  explicit RecordingRun(ModelRun& run) : run_(run) {}
  const std::vector<RecordedProbe>& probes() const { return probes_; }

  const ModelShape& shape() const override { return run_.shape(); }
  const TokenTable& tokens() const override { return run_.tokens(); }
  int tokens_seen() const override { return run_.tokens_seen(); }
  int step() const override { return run_.step(); }
  bool live() const override { return run_.live(); }
  std::string capture_hash() const override { return run_.capture_hash(); }
  std::string model_name() const override { return run_.model_name(); }
  std::unique_ptr<LayerEvidence> layer(int layer) override { return run_.layer(layer); }
  void forward(std::span<const std::int32_t> ids, const ForwardRequest& request) override;
  void apply(const Decision& decision) override { run_.apply(decision); }
  void store_as(const CacheForm& form) override { run_.store_as(form); }
  at::Tensor logits() override { return run_.logits(); }

 private:
  ModelRun& run_;
  std::vector<RecordedProbe> probes_;
};

}  // namespace kvscope::test
