#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kvscope/core/spectrum.h"

namespace kvscope {

class ModelFile;

struct SpectralOptions {
  std::vector<int> layers;  ///< true indices; empty = all
  int threads = 1;          ///< matrices analysed side by side, one thread each
  std::uint64_t seed = 0;   ///< of the sampled null spread of the asymmetry index
  /// Called after each finished layer, by one thread at a time; an exception from it stops the
  /// analysis.
  std::function<void(int layers_done, int layers_total)> progress;
};

/// Spectra of W_Q, W_K, W_V, W_O per layer and per head from their float64 Gram matrices, with
/// metrics, random-matrix nulls, ratios to them, the noise floor of the storage type and the
/// asymmetry index (specs/spectral.md sections 3, 4.1, 8.2). Heads of W_Q, W_K, W_V are row blocks,
/// of W_O column blocks; KV heads are not expanded. Tables have the axes "layer", "proj", "q_head",
/// "kv_head", "mode" and "energy" (50, 90, 95, 99 %).
///
/// In memory at a time: `threads` matrices. A matrix that cannot be analysed gets a status and NaN,
/// the others are still done. The result is the same bytes for any number of threads. Throws
/// Error{usage} for a layer the model does not have, and what reading a damaged file throws.
Spectrum analyze_weights(const ModelFile& model, const SpectralOptions& options);

}  // namespace kvscope
