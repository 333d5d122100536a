#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "matrix_spectrum.h"
#include "products.h"

namespace kvscope::spectral {

/// Everything of one layer.
struct LayerResult {
  std::array<MatrixSpectrum, 4> matrices;  ///< q, k, v, o
  LayerProducts products;
};

/// Finished layers in a file beside the output: a header with a key (what the results depend on),
/// then one checksummed record a layer, appended and flushed. A torn or damaged record and all
/// after it are ignored and overwritten; a file with another key is started afresh.
class Checkpoint {
 public:
  /// `path` empty: keeps nothing. Throws Error{io} if the file cannot be written.
  Checkpoint(std::string path, const std::string& key);
  /// Layers that were there, by true index; taken out on the first call.
  std::map<int, LayerResult> take() { return std::move(found_); }
  /// Throws Error{io} (disk full).
  void add(int layer, const LayerResult& result);

 private:
  std::int64_t read(const std::string& key);
  std::string path_;
  std::map<int, LayerResult> found_;
};

}  // namespace kvscope::spectral
