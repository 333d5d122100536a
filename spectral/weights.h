#pragma once

#include <limits>
#include <string>
#include <vector>

#include "gram.h"
#include "kvscope/core/spectrum.h"
#include "kvscope/spectral/analyze.h"

namespace kvscope {
class ModelFile;
enum class Weight;
}  // namespace kvscope

namespace kvscope::spectral {

/// One projection of one layer: how its heads lie in the matrix.
struct ProjectionLayout {
  Weight weight{};
  int heads = 0;
  int head_dim = 0;
  bool heads_are_rows = true;  ///< q, k, v: row blocks; o: column blocks
};

/// One projection as read: float32, checked, with the factors of the view.
struct ProjectionWeights {
  SpectrumStatus status = SpectrumStatus::missing;
  std::string message;
  int rows = 0;
  int columns = 0;
  std::vector<float> values;          ///< [rows, columns]; empty unless usable
  std::vector<double> bias;           ///< [rows] or empty
  std::vector<double> row_factor;     ///< [rows] gain of the norm behind the projection, or empty
  std::vector<double> column_factor;  ///< [columns] gain of the norm before it, or empty
  int exponent = 0;                   ///< the largest magnitude is in [2^(exponent-1), 2^exponent)
  double storage_error = std::numeric_limits<double>::quiet_NaN();  ///< rms of an entry

  bool usable() const { return !values.empty(); }
  bool sliced(const ProjectionLayout& layout) const;
  /// The whole matrix.
  WeightView view() const;
  /// Rows (or columns, for W_O) of one head. `sliced` must hold.
  WeightView head(const ProjectionLayout& layout, int index) const;
};

/// Reads one matrix. What is wrong with it becomes its status, and `values` stays empty; a damaged
/// file throws.
ProjectionWeights load_weights(const ModelFile& model, int layer, const ProjectionLayout& layout,
                               const SpectralOptions& options);

}  // namespace kvscope::spectral
