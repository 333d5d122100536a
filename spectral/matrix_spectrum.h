#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kvscope/core/spectrum.h"

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

/// Eigenvalues of one projection matrix and of its heads.
struct MatrixSpectrum {
  SpectrumStatus status = SpectrumStatus::missing;
  std::string message;
  int rows = 0;
  int columns = 0;
  std::vector<double> layer;  ///< [min(rows, columns)] descending, weight^2
  std::vector<std::vector<double>>
      heads;  ///< [heads][min(head_dim, other side)]; empty if not sliced
  double storage_error = std::numeric_limits<double>::quiet_NaN();  ///< rms of an entry
};

/// Reads, checks and decomposes one matrix on the calling thread. What is wrong with the matrix
/// becomes its status; a damaged file throws.
MatrixSpectrum matrix_spectrum(const ModelFile& model, int layer, const ProjectionLayout& layout);

}  // namespace kvscope::spectral
