#include "kvscope/scene/raster.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kvscope/scene/palette.h"

namespace kvscope {
namespace {

constexpr int finest_block = 16;
constexpr int letter_block = 128;  // at most 255: a block's counts are bytes

/// Columns of pixel x when [first, last) is spread over `width`: never empty.
struct Columns {
  int first;
  int last;
};

Columns columns_of(int x, const ShareRaster& view) {
  const std::int64_t span = view.last - view.first;
  const int begin = view.first + static_cast<int>(span * x / view.width);
  const int end = view.first + static_cast<int>((span * (x + 1) + view.width - 1) / view.width);
  return {begin, std::clamp(end, begin + 1, view.last)};
}

template <typename ColourAt>
Pixels rasterise(int rows, const ShareRaster& view, ColourAt colour_at) {
  Pixels pixels{view.width, view.height, {}};
  const auto stride = static_cast<std::size_t>(view.width) * 4;
  pixels.rgba.resize(stride * static_cast<std::size_t>(view.height));
  if (rows == 0 || view.last <= view.first) {
    return pixels;
  }
  int drawn = -1;
  for (int y = 0; y < view.height; ++y) {
    const int row = static_cast<int>(std::int64_t{y} * rows / view.height);
    std::uint8_t* out = pixels.rgba.data() + static_cast<std::size_t>(y) * stride;
    if (row == drawn) {
      std::copy_n(out - stride, stride, out);
      continue;
    }
    drawn = row;
    for (int x = 0; x < view.width; ++x) {
      const Columns columns = columns_of(x, view);
      const Colour colour = colour_at(row, columns.first, columns.last);
      *out++ = colour.r;
      *out++ = colour.g;
      *out++ = colour.b;
      *out++ = 255;
    }
  }
  return pixels;
}

}  // namespace

void ColumnPyramid::Cell::add(const Cell& other) {
  sum += other.sum;
  count += other.count;
  least = std::min(least, other.least);
  most = std::max(most, other.most);
}

void ColumnPyramid::Cell::add(const float* values, int many) {
  for (int at = 0; at < many; ++at) {
    const float value = values[at];
    const bool present = value == value;
    sum += present ? value : 0.0f;
    count += present ? 1.0f : 0.0f;
    least = value < least ? value : least;
    most = value > most ? value : most;
  }
}

ColumnPyramid::ColumnPyramid(int rows, int columns, std::vector<float> values)
    : rows_(rows), columns_(columns), values_(std::move(values)) {
  fill_blocks();
  while (blocks_.back() > 1) {
    const std::vector<Cell>& fine = levels_.back();
    const int fine_blocks = blocks_.back();
    const int coarse_blocks = (fine_blocks + 1) / 2;
    std::vector<Cell> coarse(static_cast<std::size_t>(rows) *
                             static_cast<std::size_t>(coarse_blocks));
    for (int row = 0; row < rows; ++row) {
      const Cell* from =
          fine.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(fine_blocks);
      Cell* to =
          coarse.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(coarse_blocks);
      for (int block = 0; block < coarse_blocks; ++block) {
        to[block] = from[2 * block];
        if (2 * block + 1 < fine_blocks) {
          to[block].add(from[2 * block + 1]);
        }
      }
    }
    levels_.push_back(std::move(coarse));
    blocks_.push_back(coarse_blocks);
  }
}

void ColumnPyramid::fill_blocks() {
  const int blocks = std::max(1, (columns_ + finest_block - 1) / finest_block);
  std::vector<Cell> level(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(blocks));
  for (int row = 0; row < rows_; ++row) {
    const float* line =
        values_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(columns_);
    Cell* out = level.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(blocks);
    for (int block = 0; block < blocks; ++block) {
      Cell cell{0, 0, std::numeric_limits<float>::infinity(),
                -std::numeric_limits<float>::infinity()};
      const int first = block * finest_block;
      cell.add(line + first, std::min(columns_ - first, finest_block));
      out[block] = cell;
    }
  }
  levels_.push_back(std::move(level));
  blocks_.push_back(blocks);
}

ColumnPyramid::Cell ColumnPyramid::over(int row, int first, int last) const {
  Cell total{0, 0, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  const float* line =
      values_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(columns_);
  const int begin = std::min(last, (first + finest_block - 1) / finest_block * finest_block);
  total.add(line + first, begin - first);
  first = begin;
  if (last != columns_) {
    const int end = std::max(first, last / finest_block * finest_block);
    total.add(line + end, last - end);
    last = end;
  }
  // What is left begins and ends at blocks (the last one may be shorter than the others).
  int from = first / finest_block;
  int to = (last + finest_block - 1) / finest_block;
  for (std::size_t level = 0; first < last && from < to; ++level) {
    const Cell* cells = levels_[level].data() +
                        static_cast<std::size_t>(row) * static_cast<std::size_t>(blocks_[level]);
    if (from % 2 == 1) {
      total.add(cells[from++]);
    }
    if (from < to && to % 2 == 1) {
      total.add(cells[--to]);
    }
    from /= 2;
    to /= 2;
  }
  return total;
}

float ColumnPyramid::mean(int row, int first, int last) const {
  const Cell cell = over(row, first, last);
  return cell.count > 0 ? cell.sum / cell.count : std::numeric_limits<float>::quiet_NaN();
}

float ColumnPyramid::minimum(int row, int first, int last) const {
  const Cell cell = over(row, first, last);
  return cell.count > 0 ? cell.least : std::numeric_limits<float>::quiet_NaN();
}

float ColumnPyramid::maximum(int row, int first, int last) const {
  const Cell cell = over(row, first, last);
  return cell.count > 0 ? cell.most : std::numeric_limits<float>::quiet_NaN();
}

LetterPyramid::LetterPyramid(int rows, int columns, std::string letters)
    : rows_(rows),
      columns_(columns),
      blocks_((columns + letter_block - 1) / letter_block),
      category_(std::move(letters)) {
  std::array<char, 256> index;
  index.fill(static_cast<char>(order.size() - 1));
  for (std::size_t at = 0; at < order.size(); ++at) {
    index[static_cast<unsigned char>(order[at])] = static_cast<char>(at);
  }
  block_.assign(static_cast<std::size_t>(rows) * static_cast<std::size_t>(blocks_), {});
  for (int row = 0; row < rows; ++row) {
    char* line =
        category_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(columns);
    auto* counts =
        block_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(blocks_);
    for (int column = 0; column < columns; ++column) {
      line[column] = index[static_cast<unsigned char>(line[column])];
      ++counts[column / letter_block][static_cast<std::size_t>(line[column])];
    }
  }
}

LetterPyramid::Counts LetterPyramid::counts(int row, int first, int last) const {
  Counts total{};
  const char* line =
      category_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(columns_);
  const auto* blocks =
      block_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(blocks_);
  while (first < last) {
    const bool whole = first % letter_block == 0 && first + letter_block <= last;
    if (!whole) {
      ++total[static_cast<std::size_t>(line[first++])];
      continue;
    }
    for (std::size_t at = 0; at < total.size(); ++at) {
      total[at] += blocks[first / letter_block][at];
    }
    first += letter_block;
  }
  return total;
}

Pixels rasterise_share(const ColumnPyramid& pyramid, const ShareRaster& view) {
  std::array<Colour, 256> table;
  for (std::size_t step = 0; step < table.size(); ++step) {
    table[step] = share_colour(static_cast<double>(step) / 255, view.dark);
  }
  const Colour unknown = share_colour(std::numeric_limits<double>::quiet_NaN(), view.dark);
  return rasterise(pyramid.rows(), view, [&](int row, int from, int to) {
    const float share = view.worst ? pyramid.minimum(row, from, to) : pyramid.mean(row, from, to);
    return std::isnan(share)
               ? unknown
               : table[static_cast<std::size_t>(std::clamp(share, 0.0f, 1.0f) * 255 + 0.5f)];
  });
}

Pixels rasterise_difference(const ColumnPyramid& pyramid, const ShareRaster& view) {
  return rasterise(pyramid.rows(), view, [&](int row, int from, int to) {
    float value = pyramid.mean(row, from, to);
    if (view.worst) {
      const float least = pyramid.minimum(row, from, to);
      const float most = pyramid.maximum(row, from, to);
      value = -least > most ? least : most;
    }
    return difference_colour(static_cast<double>(value), view.dark);
  });
}

Pixels rasterise_fates(const LetterPyramid& pyramid, const ShareRaster& view) {
  std::array<Colour, LetterPyramid::order.size()> colours;
  for (std::size_t at = 0; at < colours.size(); ++at) {
    colours[at] = fate_colour(LetterPyramid::order[at], view.dark);
  }
  constexpr std::string_view worst_first = "DEMSTPKN";
  return rasterise(pyramid.rows(), view, [&](int row, int from, int to) {
    const LetterPyramid::Counts counts = pyramid.counts(row, from, to);
    if (view.worst) {
      for (const char letter : worst_first) {
        if (counts[LetterPyramid::order.find(letter)] > 0) {
          return colours[LetterPyramid::order.find(letter)];
        }
      }
    }
    std::array<std::uint64_t, 3> mixed{};
    for (std::size_t at = 0; at < counts.size(); ++at) {
      mixed[0] += std::uint64_t{counts[at]} * colours[at].r;
      mixed[1] += std::uint64_t{counts[at]} * colours[at].g;
      mixed[2] += std::uint64_t{counts[at]} * colours[at].b;
    }
    const auto cells = static_cast<std::uint64_t>(to - from);
    const auto channel = [cells](std::uint64_t sum) {
      return static_cast<std::uint8_t>((sum + cells / 2) / cells);
    };
    return Colour{channel(mixed[0]), channel(mixed[1]), channel(mixed[2])};
  });
}

}  // namespace kvscope
