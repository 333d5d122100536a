#pragma once

#include <array>
#include <string>
#include <vector>

#include "kvscope/core/spectrum.h"
#include "token_statistics.h"

namespace kvscope {
class CaptureReader;
}

namespace kvscope::spectral {

/// One projection of one layer.
struct HeadHomogeneity {
  std::vector<TokenStatistics> heads;
  std::vector<std::vector<double>> lags;  ///< [head][lag]: mean cosine at that distance
  std::vector<double> gain;   ///< [head]: E|y|^2 / |W diag(g)|_F^2; NaN where it is not one
  TokenStatistics layer;      ///< of all heads side by side; modes only if a basis was found
  double skipped_cosine = 0;  ///< of the tokens left out at the start, heads side by side
};

/// One layer; no heads if it was not captured.
struct LayerHomogeneity {
  std::array<HeadHomogeneity, 3> before;       ///< q, k, v before RoPE
  std::array<HeadHomogeneity, 3> after;        ///< after it
  std::array<std::vector<double>, 3> rotated;  ///< first-order cosine after RoPE from rows before
};

struct CorpusInfo {
  std::string name;
  int skip_first = 0;
  std::vector<int> lags;
  const CaptureReader* capture = nullptr;
};

/// Writes "homogeneity/<corpus>", and "homogeneity/<corpus>_post_rope" if asked (specs/spectral.md
/// 8.2), and the alignment of data and weights by mode.
void fill_homogeneity(const std::vector<LayerHomogeneity>& layers, const CorpusInfo& corpus,
                      bool post_rope, Spectrum& spectrum);

}  // namespace kvscope::spectral
