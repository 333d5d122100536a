#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kvscope/core/spectrum.h"

namespace kvscope {

class ModelFile;

struct SpectralOptions {
  std::vector<int> layers;  ///< true indices; empty = all
  int threads = 1;
  std::uint64_t seed = 0;   ///< of sampled nulls
  std::function<void(int layers_done, int layers_total)> progress;
};

/// Spectra of W_Q, W_K, W_V, W_O per layer and per head from their float64 Gram matrices, with metrics,
/// random-matrix nulls, ratios and the asymmetry index (specs/spectral.md sections 2 to 5). One layer in
/// memory at a time. A matrix that cannot be analysed gets a status; the others are still done.
Spectrum analyze_weights(const ModelFile& model, const SpectralOptions& options);

}  // namespace kvscope
