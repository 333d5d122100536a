#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kvscope/core/spectrum.h"

namespace kvscope {

class ModelFile;

struct SpectralOptions {
  std::vector<int> layers;               ///< true indices; empty = all
  std::vector<std::string> projections;  ///< of "q", "k", "v", "o"; empty = all
  int threads = 1;                       ///< matrices analysed side by side, one thread each
  std::uint64_t seed = 0;                ///< of everything sampled
  /// W diag(g) with the gain g of the norm before the projection, and of the per-head norm behind
  /// it, in place of W: then the input has unit mean square in each coordinate.
  bool gain_folded = false;
  bool with_bias = true;  ///< spectra of [W b] beside those of W, where there is a bias
  bool heads = true;      ///< spectra of the heads beside those of whole matrices
  bool products = true;   ///< QK and OV products and the alignments between projections
  /// Complex eigenvalues of W_O W_V by head too, and how far they are positive (copying heads).
  bool ov_eigenvalues = false;
  bool vectors = false;  ///< also store the left singular vectors of the heads of W_Q, W_K, W_V
  bool fits = false;     ///< also fit power laws and the Marchenko-Pastur bulk
  /// No eigensolver: norms, participation ratio, and the stable rank from 30 Lanczos steps with its
  /// error bound; everything else stays NaN.
  bool fast = false;
  int top = 0;  ///< with `fast`: this many leading singular values by randomised projection
  double gap_tolerance = 1e-3;  ///< relative gap below which modes form one block
  std::string device = "cpu";   ///< "cpu", "cuda" or "cuda:N" for the eigensolver
  /// A file in which finished layers are kept, so that a stopped run goes on where it was; empty =
  /// none. It is read first if it belongs to the same model and options, and stays until removed.
  std::string checkpoint;
  /// Called after each finished layer, by one thread at a time; an exception from it stops the
  /// analysis.
  std::function<void(int layers_done, int layers_total)> progress;
};

/// Spectra of W_Q, W_K, W_V, W_O per layer and per head from their float64 Gram matrices, singular
/// values of the QK and OV products through their head_dim x head_dim cores, metrics,
/// random-matrix nulls, ratios to them, the noise floor of the storage type, alignments and the
/// asymmetry index (specs/spectral.md sections 3, 4.1, 4.2, 4.4, 8.2). Heads of W_Q, W_K, W_V are
/// row blocks, of W_O column blocks; KV heads are not expanded. Tables have the axes "layer",
/// "proj", "q_head", "kv_head", "mode" and "energy" (50, 90, 95, 99 %).
///
/// In memory at a time: `threads` matrices, each as float32 and one triangle of its Gram matrix. A
/// matrix that cannot be analysed gets a status and NaN, the others are still done. But for
/// "timing/", the result is the same bytes for any number of threads, resumed or not. Throws
/// Error{usage} for a layer or projection the model does not have, Error{unsupported} for a device
/// this build or machine lacks, and what reading a damaged file throws.
Spectrum analyze_weights(const ModelFile& model, const SpectralOptions& options);

}  // namespace kvscope
