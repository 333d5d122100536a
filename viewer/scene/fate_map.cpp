#include "kvscope/scene/fate_map.h"

#include <algorithm>
#include <cmath>

#include "kvscope/scene/palette.h"

namespace kvscope {
namespace {

constexpr Colour only_a{240, 150, 60};
constexpr Colour only_b{90, 150, 240};

/// Columns of pixel x when [first, last) is spread over `width`: never empty.
struct Columns {
  int first;
  int last;
};

Columns columns_of(int x, int first, int last, int width) {
  const std::int64_t span = last - first;
  const int begin = first + static_cast<int>(span * x / width);
  const int end = first + static_cast<int>((span * (x + 1) + width - 1) / width);
  return {begin, std::clamp(end, begin + 1, last)};
}

template <typename ColourAt>
Pixels rasterise(const ColumnPyramid& pyramid, int first, int last, int width, int height,
                 ColourAt colour_at) {
  Pixels pixels{width, height, {}};
  pixels.rgba.resize(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 4);
  if (pyramid.rows() == 0 || last <= first) {
    return pixels;
  }
  std::vector<Colour> line(static_cast<std::size_t>(width));
  int drawn = -1;
  for (int y = 0; y < height; ++y) {
    const int row = static_cast<int>(std::int64_t{y} * pyramid.rows() / height);
    if (row != drawn) {
      for (int x = 0; x < width; ++x) {
        const Columns columns = columns_of(x, first, last, width);
        line[static_cast<std::size_t>(x)] = colour_at(row, columns.first, columns.last);
      }
      drawn = row;
    }
    std::uint8_t* out =
        pixels.rgba.data() + static_cast<std::size_t>(y) * static_cast<std::size_t>(width) * 4;
    for (const Colour colour : line) {
      *out++ = colour.r;
      *out++ = colour.g;
      *out++ = colour.b;
      *out++ = 255;
    }
  }
  return pixels;
}

}  // namespace

ColumnPyramid::ColumnPyramid(int rows, int columns, const std::vector<float>& values)
    : rows_(rows), columns_(columns) {
  const auto stride = static_cast<std::size_t>(columns) + 1;
  sums_.assign(static_cast<std::size_t>(rows) * stride, 0.0);
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const std::size_t at =
          static_cast<std::size_t>(row) * stride + static_cast<std::size_t>(column);
      sums_[at + 1] =
          sums_[at] + values[static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
                             static_cast<std::size_t>(column)];
    }
  }
  levels_.push_back({columns, values});
  while (levels_.back().columns > 1) {
    const Level& fine = levels_.back();
    Level coarse{(fine.columns + 1) / 2, {}};
    coarse.minimum.reserve(static_cast<std::size_t>(rows) *
                           static_cast<std::size_t>(coarse.columns));
    for (int row = 0; row < rows; ++row) {
      const float* source = fine.minimum.data() +
                            static_cast<std::size_t>(row) * static_cast<std::size_t>(fine.columns);
      for (int column = 0; column < coarse.columns; ++column) {
        const int second = std::min(2 * column + 1, fine.columns - 1);
        coarse.minimum.push_back(std::min(source[2 * column], source[second]));
      }
    }
    levels_.push_back(std::move(coarse));
  }
}

float ColumnPyramid::mean(int row, int first, int last) const {
  const std::size_t base = static_cast<std::size_t>(row) * (static_cast<std::size_t>(columns_) + 1);
  return static_cast<float>((sums_[base + static_cast<std::size_t>(last)] -
                             sums_[base + static_cast<std::size_t>(first)]) /
                            (last - first));
}

float ColumnPyramid::minimum(int row, int first, int last) const {
  float least =
      levels_[0].minimum[static_cast<std::size_t>(row) * static_cast<std::size_t>(columns_) +
                         static_cast<std::size_t>(first)];
  const auto at = [&](std::size_t level, int column) {
    const Level& l = levels_[level];
    return l.minimum[static_cast<std::size_t>(row) * static_cast<std::size_t>(l.columns) +
                     static_cast<std::size_t>(column)];
  };
  for (std::size_t level = 0; first < last; ++level) {
    if (first % 2 == 1 || last - first == 1) {
      least = std::min(least, at(level, first++));
    }
    if (first < last && last % 2 == 1) {
      least = std::min(least, at(level, --last));
    }
    first /= 2;
    last /= 2;
  }
  return least;
}

std::vector<float> kept_share(const Scene& scene, const SceneDecision& decision,
                              const std::vector<int>& kv_heads) {
  const int tokens = scene.token_count();
  const int covered = decision.decision.tokens;
  std::vector<float> share(
      static_cast<std::size_t>(scene.layers()) * static_cast<std::size_t>(tokens), 1.0f);
  for (int row = 0; row < scene.layers(); ++row) {
    const LayerDecision& layer = decision.decision.layers[static_cast<std::size_t>(row)];
    for (int token = 0; token < std::min(covered, tokens); ++token) {
      float& cell = share[static_cast<std::size_t>(row) * static_cast<std::size_t>(tokens) +
                          static_cast<std::size_t>(token)];
      if (kv_heads.empty()) {
        const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(covered) +
                               static_cast<std::size_t>(token);
        cell = static_cast<float>(decision.heads_by_layer[at]) / static_cast<float>(layer.kv_heads);
        continue;
      }
      int held = 0;
      for (const int head : kv_heads) {
        held += layer.removed_at[layer.cell(head, token)] == alive ? 1 : 0;
      }
      cell = static_cast<float>(held) / static_cast<float>(kv_heads.size());
    }
  }
  return share;
}

std::vector<float> share_difference(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> difference(a.size());
  std::transform(a.begin(), a.end(), b.begin(), difference.begin(), std::minus<>());
  return difference;
}

Pixels rasterise_share(const ColumnPyramid& pyramid, int first, int last, int width, int height,
                       bool any_loss, bool dark) {
  return rasterise(pyramid, first, last, width, height, [&](int row, int from, int to) {
    return share_colour(any_loss ? pyramid.minimum(row, from, to) : pyramid.mean(row, from, to),
                        dark);
  });
}

Pixels rasterise_difference(const ColumnPyramid& pyramid, int first, int last, int width,
                            int height, bool dark) {
  const Colour none = dark ? Colour{40, 40, 48} : Colour{238, 238, 240};
  return rasterise(pyramid, first, last, width, height, [&](int row, int from, int to) {
    const float value = pyramid.mean(row, from, to);
    const Colour full = value > 0 ? only_a : only_b;
    const double part = std::min(1.0, std::abs(static_cast<double>(value)) * 1.5);
    const auto blend = [part](std::uint8_t x, std::uint8_t y) {
      return static_cast<std::uint8_t>(std::lround(x + part * (y - x)));
    };
    return Colour{blend(none.r, full.r), blend(none.g, full.g), blend(none.b, full.b)};
  });
}

}  // namespace kvscope
