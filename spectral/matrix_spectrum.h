#pragma once

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "fast.h"
#include "lapack.h"
#include "metrics.h"
#include "weights.h"

namespace kvscope::spectral {

/// Eigenvalues of one projection matrix and of its heads.
struct MatrixSpectrum {
  SpectrumStatus status = SpectrumStatus::missing;
  std::string message;
  int rows = 0;
  int columns = 0;
  std::vector<double> layer;      ///< [min(rows, columns)] descending, weight^2; empty if fast
  std::vector<double> with_bias;  ///< of [W b]; empty without a bias
  std::vector<std::vector<double>>
      heads;  ///< [heads][min(head_dim, other side)]; empty if not sliced
  std::vector<std::vector<int>> blocks;      ///< likewise: degeneracy block of each mode
  std::vector<std::vector<double>> vectors;  ///< [heads][head_dim, head_dim], column = mode
  SpectrumMetrics layer_metrics = missing_metrics();
  std::vector<SpectrumMetrics> head_metrics;
  FastSpectrum layer_fast;  ///< of the fast mode
  std::vector<FastSpectrum> heads_fast;
  std::vector<double> top;  ///< leading singular values of the fast mode
  double storage_error = std::numeric_limits<double>::quiet_NaN();  ///< rms of an entry
  std::array<double, 3> seconds{};                                  ///< Gram, eigenvalues, metrics
};

/// Who computes eigenvalues, and who tries again.
struct Solvers {
  const EigenSolver& first;
  const EigenSolver& second;
};

/// Reads, checks and decomposes one matrix on the calling thread. What is wrong with the matrix
/// becomes its status; a damaged file throws. If the first solver does not converge or misses the
/// moments of the Gram matrix, the second tries once.
MatrixSpectrum matrix_spectrum(const ModelFile& model, int layer, const ProjectionLayout& layout,
                               const SpectralOptions& options, const Solvers& solvers);

/// Consecutive modes whose relative gap is below `tolerance`, or that both lie below `floor`^2,
/// share a block; blocks count from 0.
std::vector<int> degeneracy_blocks(const std::vector<double>& eigenvalues, double floor,
                                   double tolerance);

}  // namespace kvscope::spectral
