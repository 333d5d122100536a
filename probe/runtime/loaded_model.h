#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <mutex>
#include <vector>

#include "kvscope/runtime/model.h"
#include "layer_weights.h"

namespace kvscope::detail {

/// The model behind `Model::load`.
class LoadedModel final : public Model {
 public:
  LoadedModel(std::shared_ptr<const ModelFile> file, const RuntimeOptions& options);

  const ModelFile& file() const override { return *file_; }
  const RuntimeOptions& options() const override { return options_; }
  const std::vector<NonfiniteWeight>& nonfinite_weights() const override { return nonfinite_; }
  /// The file's tokenizer, made when first asked for; null if the file has none.
  const Tokenizer* tokenizer() const;
  at::Tensor output_factor(int layer) const override;
  at::Tensor output_weights(int layer) const override;

  const LayerWeights& layer(int layer) const { return layers_[static_cast<std::size_t>(layer)]; }
  const WeightMatrix& embedding() const { return embedding_; }  ///< [vocabulary, hidden_dim]
  const NormWeights& output_norm() const { return output_norm_; }
  const WeightMatrix& head() const { return head_; }  ///< [vocabulary, hidden_dim]
  at::Device device() const { return tensors_.device(); }
  at::ScalarType dtype() const { return at::typeMetaToScalarType(tensors_.dtype()); }
  /// Type and device of what the model computes.
  const at::TensorOptions& tensors() const { return tensors_; }

 private:
  void load_layers();
  void report_nonfinite() const;

  std::shared_ptr<const ModelFile> file_;
  RuntimeOptions options_;
  std::vector<LayerWeights> layers_;
  at::TensorOptions tensors_;
  WeightMatrix embedding_, head_;
  NormWeights output_norm_;
  std::vector<NonfiniteWeight> nonfinite_;
  mutable std::once_flag tokenizer_made_;
  mutable std::shared_ptr<const Tokenizer> tokenizer_;
  mutable std::mutex factor_mutex_;
  mutable std::vector<at::Tensor> factors_;
};

}  // namespace kvscope::detail
