#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// A picture: RGBA, row-major, top row first.
struct Pixels {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgba;  ///< [height, width, 4]
};

/// Sums and minima of a [rows, columns] table over power-of-two blocks of columns, so that a
/// picture of any range costs what its pixels cost.
class ColumnPyramid {
 public:
  ColumnPyramid() = default;
  ColumnPyramid(int rows, int columns, const std::vector<float>& values);
  int rows() const { return rows_; }
  int columns() const { return columns_; }
  /// Mean and minimum of row `row` over columns [first, last), first < last.
  float mean(int row, int first, int last) const;
  float minimum(int row, int first, int last) const;

 private:
  struct Level {
    int columns;
    std::vector<float> minimum;
  };
  int rows_ = 0;
  int columns_ = 0;
  std::vector<double> sums_;  ///< [rows, columns + 1] prefix sums
  std::vector<Level> levels_;
};

/// Share of the selected KV heads in which a token holds a slot: [layers, tokens] in [0, 1]. Tokens
/// after the decision's are NaN-free 1: they were never up for removal.
std::vector<float> kept_share(const Scene& scene, const SceneDecision& decision,
                              const std::vector<int>& kv_heads);

/// Kept share of A minus that of B, in [-1, 1]: [layers, tokens].
std::vector<float> share_difference(const std::vector<float>& a, const std::vector<float>& b);

/// Rasterises rows x the columns in view. `any_loss`: a pixel shows its worst token, so that one
/// lost token never disappears; else the mean.
Pixels rasterise_share(const ColumnPyramid& pyramid, int first, int last, int width, int height,
                       bool any_loss, bool dark);

/// Differences: A keeps more, B keeps more, or neither.
Pixels rasterise_difference(const ColumnPyramid& pyramid, int first, int last, int width,
                            int height, bool dark);

}  // namespace kvscope
