#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvscope/evidence/model_run.h"

namespace kvscope::testing {

inline constexpr const char* fake_model_hash = "00112233445566778899aabbccddeeff";

/// What one layer of a fake run holds; every statistic is derived from these.
struct FakeLayer {
  at::Tensor keys;            ///< [kv_heads, tokens, head_dim] post-RoPE
  at::Tensor values;          ///< [kv_heads, tokens, head_dim]
  at::Tensor queries;         ///< [query_heads, tokens, head_dim] post-RoPE
  at::Tensor output_weights;  ///< [query_heads, head_dim, hidden_dim]
  /// [query_heads, tokens, tokens] causal rows; computed from queries and keys unless given.
  at::Tensor attention;
  /// [kv_heads, tokens, head_dim]; some other frame of the keys unless given.
  at::Tensor keys_pre_rope{};
};

/// Sizes of a fake run.
struct FakeSizes {
  int layers = 1;
  int query_heads = 2;
  int kv_heads = 2;
  int tokens = 6;
  int head_dim = 8;
  int hidden_dim = 16;
};

/// A run that has just prefilled, out of tensors a test chose. Counts how often a layer was asked
/// for, so that a test can tell whether any work was done.
class FakeRun : public ModelRun {
 public:
  FakeRun(const FakeSizes& sizes, std::vector<FakeLayer> layers);

  const ModelShape& shape() const override { return shape_; }
  const TokenTable& tokens() const override { return tokens_; }
  int tokens_seen() const override { return sizes_.tokens; }
  int step() const override { return decode_rows; }
  bool live() const override { return false; }
  std::string capture_hash() const override { return "0123456789abcdef"; }
  std::string model_name() const override { return "fake"; }
  std::string model_hash() const override { return fake_model_hash; }
  std::unique_ptr<LayerEvidence> layer(int layer) override;
  void forward(std::span<const std::int32_t> token_ids, const ForwardRequest& request) override;
  void apply(const Decision& decision) override;
  at::Tensor logits() override;

  const FakeSizes& sizes() const { return sizes_; }
  FakeLayer& tables(int layer) { return layers_[static_cast<std::size_t>(layer)]; }
  ModelShape& mutable_shape() { return shape_; }

  int padding = 0;       ///< slots beyond the live ones, filled with NaN
  int decode_rows = 0;   ///< newest queries that count as decode steps
  int layers_asked = 0;  ///< calls of layer()

 private:
  FakeSizes sizes_;
  ModelShape shape_;
  TokenTable tokens_;
  std::vector<FakeLayer> layers_;
};

/// The generator of specs/baselines.md appendix G, which the golden scripts share: uniform in
/// [-1, 1) times `scale`, row-major.
at::Tensor generated(std::uint32_t seed, at::IntArrayRef sizes, double scale = 1.0);

/// Layer l draws queries (x3), keys, values and output weights (x0.5) from seeds
/// seed + 10 l + 1, 2, 3, 4.
FakeRun generated_run(const FakeSizes& sizes, std::uint32_t seed);

/// One layer with these causal rows, zero keys and values; tests fill in what they need.
FakeRun attention_run(const FakeSizes& sizes, const std::vector<float>& attention);

/// [rows, columns...] of numbers.
at::Tensor table(at::IntArrayRef sizes, const std::vector<float>& numbers);

}  // namespace kvscope::testing
