#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <map>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "kvscope/model/model_file.h"
#include "kvscope/runtime/model.h"
#include "weight_matrix.h"
#include "weight_memory.h"

namespace kvscope::detail {

/// A norm's factors and, for layer norms, what is added; float32 [channels] each, or undefined.
struct NormWeights {
  at::Tensor weight;
  at::Tensor bias;
  bool defined() const { return weight.defined(); }
};

/// One layer's weights as the forward pass multiplies with them. Norms and biases of the residual
/// stream are float32, matrices and the other biases in the model's type. What a family lacks is
/// undefined.
struct LayerWeights {
  NormWeights attention_norm;
  WeightMatrix qkv;        ///< [(query_heads + 2 kv_heads) * head_dim, hidden_dim]
  at::Tensor qkv_bias;     ///< [(query_heads + 2 kv_heads) * head_dim]
  at::Tensor query_norm;   ///< [head_dim] float32
  at::Tensor key_norm;     ///< [head_dim] float32
  WeightMatrix output;     ///< [hidden_dim, query_heads * head_dim]
  at::Tensor output_bias;  ///< [hidden_dim]
  NormWeights post_attention_norm;
  NormWeights mlp_norm;
  WeightMatrix gate_up;     ///< [2 mlp_dim, hidden_dim]: gate rows, then up rows; or up rows alone
  at::Tensor gate_up_bias;  ///< [2 mlp_dim], or [mlp_dim]
  WeightMatrix down;        ///< [hidden_dim, mlp_dim]
  at::Tensor down_bias;     ///< [hidden_dim]
  NormWeights post_mlp_norm;
};

/// Reads weights of one file onto a device; shapes are checked against the config first. Throws
/// Error{corrupt_file} where a weight is missing or contradicts the config.
class WeightReader {
 public:
  /// One part of a fused matrix or bias: `rows` rows of `weight`.
  struct Part {
    Weight weight;
    std::int64_t rows;
  };

  /// `keep`: matrices stay as the file stores them, where their values are the stored blocks alone.
  WeightReader(const ModelFile& file, at::Device device, at::ScalarType dtype, bool keep)
      : file_(file), device_(device), dtype_(dtype), keep_(keep) {}

  /// Parts one below the other in the model's type: [sum of rows, columns].
  WeightMatrix matrix(int layer, std::initializer_list<Part> parts, std::int64_t columns,
                      int threads = 1) const;
  /// Parts behind one another, zero where the file has none; undefined where it has none at all.
  at::Tensor bias(int layer, std::initializer_list<Part> parts, at::ScalarType dtype) const;
  /// A vector in float32; undefined if it is `optional` and absent.
  at::Tensor vector(int layer, Weight weight, std::int64_t channels, bool optional = false) const;
  LayerWeights layer(int layer) const;
  /// What was read so far and is not finite.
  std::vector<NonfiniteWeight> nonfinite() const;

 private:
  void check(int layer, const Part& part, std::int64_t columns) const;
  void count_nonfinite(int layer, Weight weight, std::span<const float> values) const;
  void count_nonfinite(int layer, Weight weight, const BlockType& type,
                       std::span<const std::uint8_t> bytes) const;
  WeightMatrix kept(int layer, std::initializer_list<Part> parts, std::int64_t columns) const;
  void read_rows(int layer, std::initializer_list<Part> parts, std::int64_t columns, int threads,
                 at::Tensor& out) const;

  const ModelFile& file_;
  at::Device device_;
  at::ScalarType dtype_;
  bool keep_;
  mutable WeightMemory memory_;
  mutable std::mutex counting_;
  mutable std::map<std::pair<int, Weight>, std::int64_t> nonfinite_;  ///< by layer
};

}  // namespace kvscope::detail
