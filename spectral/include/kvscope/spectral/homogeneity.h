#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kvscope/core/spectrum.h"

namespace kvscope {

class CaptureReader;
class ModelFile;

struct HomogeneityOptions {
  std::string corpus = "capture";  ///< name of the group, "homogeneity/<corpus>"
  int skip_first = 4;              ///< tokens left out at the start: sinks, massive activations
  std::uint64_t seed = 0;          ///< of the shuffled pairs
  int threads = 1;                 ///< layers side by side
  bool post_rope = true;           ///< also "homogeneity/<corpus>_post_rope"
  std::vector<int> lags = {1};     ///< distances of "cos_lag_mean"; the rest is of neighbours
  int largest_layer_basis = 1024;  ///< above: no mode contributions of whole layers (cost)
  std::function<void(int layers_done, int layers_total)> progress;
};

/// How alike neighbouring tokens are in Q, K and V, per layer and head, and which modes of the
/// weights carry it (specs/spectral.md 2.2 to 2.8, 4.3): adjacent-token cosine against shuffled
/// pairs, mode contributions that add up to it, energy and persistence of each mode, first- and
/// second-order predictions, before and after RoPE.
///
/// Q, K and V come from the capture (profile `qkv` or `full`); queries, stored after RoPE, are
/// rotated back. The gain of a head is its output energy over that of its weights for an input of
/// unit mean square (4.2); NaN where a norm stands behind the projection. The basis of a head is
/// that of its weights, with the gain of a per-head norm. Layers of `spectrum` that the capture
/// lacks stay NaN. Throws Error{usage} if the capture is of another model, Error{missing_data} if
/// it lacks the tensors.
void add_homogeneity(const ModelFile& model, const CaptureReader& capture,
                     const HomogeneityOptions& options, Spectrum& spectrum);

}  // namespace kvscope
