#pragma once

#include <ATen/core/Tensor.h>

#include "loaded_model.h"
#include "rotation.h"

namespace kvscope::detail {

/// Queries and keys post-RoPE: [heads, rows, head_dim].
struct Projected {
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
};

/// The row-wise parts of a model in plain LibTorch operators, which autograd can go back through.
/// The forward pass computes the same with fused loops.
class DifferentiableModel {
 public:
  /// float32: matrix products in the model's type and the rest in float32, as the forward pass;
  /// float64: everything. Weights are converted when they are used, a matrix at a time.
  DifferentiableModel(const LoadedModel& model, bool float64);

  const LoadedModel& model() const { return model_; }
  bool float64() const { return sum_ == at::kDouble; }
  /// Type of everything but matrix products: float32 or float64.
  at::ScalarType type() const { return sum_; }

  Projected project(int layer, const at::Tensor& hidden, const Rotation& rotation) const;
  /// The layer's output from its input [rows, hidden_dim] and its attention's output, heads joined
  /// [rows, query_heads * head_dim]: [rows, hidden_dim].
  at::Tensor after_attention(int layer, const at::Tensor& hidden, const at::Tensor& attended) const;
  /// The last norm of the model.
  at::Tensor output_norm(const at::Tensor& hidden) const;
  /// Logits of normalised states, softcap in: [rows, vocabulary].
  at::Tensor logits(const at::Tensor& normed) const;
  /// d loss / d normalised states [rows, hidden_dim] from d loss / d logits, softcap left out.
  at::Tensor through_head(const at::Tensor& gradient) const;

 private:
  at::Tensor normed(const at::Tensor& x, const NormWeights& norm) const;
  at::Tensor rms_normed(const at::Tensor& x, const at::Tensor& weight) const;
  at::Tensor product(const at::Tensor& x, const WeightMatrix& weight, const at::Tensor& bias) const;
  at::Tensor block_output(const at::Tensor& x, const WeightMatrix& weight, const at::Tensor& bias,
                          const NormWeights& post_norm) const;

  const LoadedModel& model_;
  at::ScalarType product_, sum_;
  at::Tensor head_;  ///< [vocabulary, hidden_dim] in float64; else undefined
};

}  // namespace kvscope::detail
