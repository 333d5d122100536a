#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kvscope/model/model_file.h"
#include "tensor_store.h"

namespace kvscope {

/// Where a weight lies: a whole tensor, or `rows` of one from `first_row` on (fused projections).
struct Place {
  std::string tensor;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;  ///< of the stored tensor in all; 0 = as many as the weight has
};

/// What differs between formats and families once the config is known.
struct TensorLayout {
  /// Where the weight would lie; empty tensor name = this family has no such weight.
  std::function<Place(Weight weight, int layer)> place;
  /// Rows of Q and K (and their biases) are stored for neighbouring rotation pairs.
  bool neighbouring_pairs = false;
  /// Added to every RMS norm weight as it is read (Gemma stores w of 1 + w).
  float norm_offset = 0.0f;
  /// Rows and columns that share an entry of the tensor NAME_scale_inv, by which they are
  /// multiplied (FP8 checkpoints); 0 = there are no scales.
  std::int64_t scale_rows = 0;
  std::int64_t scale_columns = 0;
  /// Whether a tensor that no weight uses may be there (rotary tables, other modalities).
  std::function<bool(const std::string& name)> ignorable;
};

using TokenizerReader = std::function<std::shared_ptr<const Tokenizer>()>;

/// [rows, columns] a weight must have; {0, 0} if the config has no room for it.
std::pair<std::int64_t, std::int64_t> expected_shape(Weight weight, const ModelConfig& config);

/// The block type most matrices of the layers have.
std::string most_common_type(const TensorStore& store);

/// A model over stored tensors. Checks that all required weights are there, that each has the shape
/// that the config asks for, and that no tensor is left over.
std::unique_ptr<ModelFile> make_tensor_model(std::shared_ptr<const TensorStore> store,
                                             ModelConfig config, TensorLayout layout,
                                             TokenizerReader tokenizer);

}  // namespace kvscope
