#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvscope/model/model_file.h"

namespace kvscope {

struct RuntimeOptions {
  std::string device = "cpu";     ///< "cpu", "cuda", "cuda:N"
  std::string dtype = "float32";  ///< "float32" or "bfloat16"
  int threads = 0;                ///< 0 = all cores
  /// Matrices stay in memory as the file stores them and are dequantised a tile at a time, for the
  /// same numbers up to the order of sums. CPU only.
  bool keep_weights = false;
  bool strict = false;            ///< refuse weights that are NaN or infinite
};

/// A stored tensor with NaN or infinite weights; a block whose scale is neither counts whole.
struct NonfiniteWeight {
  std::string name;
  std::int64_t count = 0;
};

/// Weights on a device, ready to run.
class Model {
 public:
  /// Warns of weights that are not finite. Throws Error{corrupt_file} on them if `strict`.
  static std::shared_ptr<const Model> load(std::shared_ptr<const ModelFile> file,
                                           const RuntimeOptions& options);
  virtual ~Model() = default;
  virtual const ModelFile& file() const = 0;
  const ModelConfig& config() const { return file().config(); }
  const ModelShape& shape() const { return config().shape; }
  virtual const RuntimeOptions& options() const = 0;
  /// In the order of layers; those of the model as a whole come first. Empty = all are finite.
  virtual const std::vector<NonfiniteWeight>& nonfinite_weights() const = 0;
  /// W_O^h = L_h U_h of one layer: [query_heads, head_dim, head_dim] float32; computed once.
  virtual at::Tensor output_factor(int layer) const = 0;
  /// [query_heads, head_dim, hidden_dim] float32.
  virtual at::Tensor output_weights(int layer) const = 0;
};

/// Lets this process keep up to 256 MiB that it freed, where the C library can be told so: a pass
/// frees and asks for the same tensors in every layer, and pages that go back to the system in
/// between are a tenth of its time. For programs, once, before anything runs; the library itself
/// leaves the process as it finds it.
void keep_freed_memory();

}  // namespace kvscope
