#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvscope {

/// A picture: RGBA, row-major, top row first.
struct Pixels {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgba;  ///< [height, width, 4]
};

/// Sums, minima and maxima of a [rows, columns] table over power-of-two blocks of columns, so that
/// a picture of any range costs what its pixels cost. NaN cells count as nothing; a range of NaN
/// alone gives NaN.
class ColumnPyramid {
 public:
  ColumnPyramid() = default;
  ColumnPyramid(int rows, int columns, std::vector<float> values);
  int rows() const { return rows_; }
  int columns() const { return columns_; }
  /// Mean, minimum and maximum of row `row` over columns [first, last), first < last.
  float mean(int row, int first, int last) const;
  float minimum(int row, int first, int last) const;
  float maximum(int row, int first, int last) const;

 private:
  struct Cell {
    float sum;
    float count;
    float least;
    float most;
    void add(const Cell& other);
    void add(const float* values, int many);
  };
  Cell over(int row, int first, int last) const;
  void fill_blocks();

  int rows_ = 0;
  int columns_ = 0;
  std::vector<float> values_;              ///< [rows, columns]
  std::vector<std::vector<Cell>> levels_;  ///< level l: blocks of 16 << l columns
  std::vector<int> blocks_;                ///< of a row, by level
};

/// Letters of categories counted over blocks of columns.
class LetterPyramid {
 public:
  /// Categories in the order of a count.
  static constexpr std::string_view order = "KPTSMEDN";
  using Counts = std::array<std::uint32_t, order.size()>;

  LetterPyramid() = default;
  /// `letters`: [rows, columns]; a letter that is none of `order` counts as N.
  LetterPyramid(int rows, int columns, std::string letters);
  int rows() const { return rows_; }
  int columns() const { return columns_; }
  Counts counts(int row, int first, int last) const;

 private:
  int rows_ = 0;
  int columns_ = 0;
  int blocks_ = 0;                                  ///< of a row
  std::string category_;                            ///< [rows, columns] index into `order`
  std::vector<std::array<std::uint8_t, 8>> block_;  ///< [rows, blocks]
};

/// How a share is coloured, and of what.
struct ShareRaster {
  int first = 0;  ///< columns [first, last) in view
  int last = 0;
  int width = 0;  ///< of the picture
  int height = 0;
  bool worst = false;  ///< a pixel shows its worst cell, so that one lost token never disappears;
                       ///< else the mean
  bool dark = true;
};

/// Values in [0, 1]; the least is the worst.
Pixels rasterise_share(const ColumnPyramid& pyramid, const ShareRaster& view);

/// Differences in [-1, 1]: A keeps more, B keeps more, or neither; `worst` takes the largest.
Pixels rasterise_difference(const ColumnPyramid& pyramid, const ShareRaster& view);

/// Fates: the colours of a pixel's cells mixed by their number, or with `worst` the worst of them.
Pixels rasterise_fates(const LetterPyramid& pyramid, const ShareRaster& view);

}  // namespace kvscope
