#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::test {

/// A model file in memory: two small layers of seeded weights, no tokenizer.
class FakeModelFile final : public ModelFile {
 public:
  explicit FakeModelFile(bool tied = true, int kv_heads = 2) {
    config_.architecture = "llama";
    config_.name = "fake";
    config_.weights_dtype = "F32";
    ModelShape& shape = config_.shape;
    shape.layers = 2;
    shape.query_heads = 4;
    shape.kv_heads = kv_heads;
    shape.head_dim = 8;
    shape.hidden_dim = 24;
    shape.vocabulary = 40;
    shape.attention_scale = 1.0 / std::sqrt(8.0);
    shape.rope.base = 100.0;
    shape.rope.dims = 8;
    for (int pair = 0; pair < 4; ++pair) {
      shape.rope.inverse_frequency.push_back(std::pow(shape.rope.base, -2.0 * pair / 8.0));
    }
    config_.mlp_dim = 20;
    config_.context_length = 64;
    config_.tied_embeddings = tied;
    fill();
  }

  const ModelConfig& config() const override { return config_; }
  ModelConfig& change_config() { return config_; }
  std::string hash() const override { return "00000000deadbeef"; }
  bool has(Weight weight, int layer) const override { return weights_.contains({weight, layer}); }
  std::pair<std::int64_t, std::int64_t> weight_shape(Weight weight, int layer) const override {
    const Matrix& matrix = weights_.at({weight, layer});
    return {matrix.rows, matrix.columns};
  }
  std::string weight_dtype(Weight, int) const override { return "F32"; }
  void read(Weight weight, int layer, std::span<float> out, int) const override {
    const Matrix& matrix = weights_.at({weight, layer});
    KVSCOPE_CHECK(out.size() == matrix.values.size(), ErrorCode::usage, "wrong size");
    std::copy(matrix.values.begin(), matrix.values.end(), out.begin());
  }
  std::shared_ptr<const Tokenizer> tokenizer() const override {
    ++tokenizers_made;
    return nullptr;
  }
  std::vector<std::string> describe() const override { return {}; }

  const std::vector<float>& values(Weight weight, int layer) const {
    return weights_.at({weight, layer}).values;
  }
  void set(Weight weight, int layer, std::size_t cell, float value) {
    weights_.at({weight, layer}).values.at(cell) = value;
  }
  void drop(Weight weight, int layer) { weights_.erase({weight, layer}); }

  mutable int tokenizers_made = 0;  ///< making one may cost more than decoding a token

 private:
  struct Matrix {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::vector<float> values;
  };

  void add(Weight weight, int layer, int rows, int columns, float scale, float offset = 0) {
    Matrix matrix{rows, columns, {}};
    for (int cell = 0; cell < rows * columns; ++cell) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      const double uniform = static_cast<double>(state_ >> 11) * 0x1.0p-53;
      matrix.values.push_back(offset + scale * static_cast<float>(2 * uniform - 1));
    }
    weights_[{weight, layer}] = std::move(matrix);
  }

  void fill() {
    const ModelShape& s = config_.shape;
    const int queries = s.query_heads * s.head_dim;
    const int keys = s.kv_heads * s.head_dim;
    add(Weight::token_embedding, -1, s.vocabulary, s.hidden_dim, 1.0f);
    add(Weight::output_norm, -1, s.hidden_dim, 1, 0.3f, 1.0f);
    if (!config_.tied_embeddings) {
      add(Weight::output, -1, s.vocabulary, s.hidden_dim, 0.5f);
    }
    for (int layer = 0; layer < s.layers; ++layer) {
      add(Weight::attention_norm, layer, s.hidden_dim, 1, 0.3f, 1.0f);
      add(Weight::wq, layer, queries, s.hidden_dim, 0.6f);
      add(Weight::wk, layer, keys, s.hidden_dim, 0.6f);
      add(Weight::wv, layer, keys, s.hidden_dim, 0.6f);
      add(Weight::wo, layer, s.hidden_dim, queries, 0.6f);
      add(Weight::mlp_norm, layer, s.hidden_dim, 1, 0.3f, 1.0f);
      add(Weight::mlp_gate, layer, config_.mlp_dim, s.hidden_dim, 0.5f);
      add(Weight::mlp_up, layer, config_.mlp_dim, s.hidden_dim, 0.5f);
      add(Weight::mlp_down, layer, s.hidden_dim, config_.mlp_dim, 0.5f);
    }
  }

  ModelConfig config_;
  std::map<std::pair<Weight, int>, Matrix> weights_;
  std::uint64_t state_ = 20240607;
};

/// A prompt of ids that repeat with period 7.
inline TokenTable fake_prompt(int tokens) {
  TokenTable table;
  for (int token = 0; token < tokens; ++token) {
    table.append((token * 11 + token / 7) % 40, token, Segment::context, "x");
  }
  table.prompt_tokens = tokens;
  table.context_tokens = tokens;
  return table;
}

inline std::shared_ptr<const Model> fake_model(const std::string& dtype = "float32",
                                               int threads = 2) {
  return Model::load(std::make_shared<FakeModelFile>(), {"cpu", dtype, threads});
}

}  // namespace kvscope::test
