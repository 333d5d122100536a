#pragma once

#include "tile/tasks.h"
#include "tile/vector.h"

namespace kvscope::tile::KVSCOPE_TILE_ISA {

/// Dot products of up to R query rows with one tile of packed keys: out [count][2 * width], rows
/// `out_stride` apart. A function of its own, so that all registers are the sums'.
template <int R>
__attribute__((noinline)) void dot_rows(const float* packed, int head_dim, const float* queries,
                                        std::int64_t row_stride, int count, float* out,
                                        std::int64_t out_stride) {
  const float* q[R];
  Floats low[R];
  Floats high[R];
  KVSCOPE_UNROLL
  for (int t = 0; t < R; ++t) {
    q[t] = queries + (t < count ? t : count - 1) * row_stride;
    low[t] = Floats{};
    high[t] = Floats{};
  }
  for (int d = 0; d < head_dim; ++d) {
    const Floats key_low = load(packed);
    const Floats key_high = load(packed + width);
    packed += tile_keys;
    KVSCOPE_UNROLL
    for (int t = 0; t < R; ++t) {
      const Floats x = broadcast(q[t][d]);
      low[t] += x * key_low;
      high[t] += x * key_high;
    }
  }
  KVSCOPE_UNROLL
  for (int t = 0; t < R; ++t) {
    if (t < count) {
      store(out + t * out_stride, low[t]);
      store(out + t * out_stride + width, high[t]);
    }
  }
}

inline void dots(const DotTask& task) {
  int first = 0;
  for (; task.count - first >= tile_rows / 2; first += tile_rows) {
    const int count = task.count - first < tile_rows ? task.count - first : tile_rows;
    dot_rows<tile_rows>(task.packed, task.head_dim, task.rows + first * task.row_stride,
                        task.row_stride, count,
                        task.out + static_cast<std::int64_t>(first) * tile_keys, tile_keys);
  }
  for (; first < task.count; ++first) {
    dot_rows<1>(task.packed, task.head_dim, task.rows + first * task.row_stride, task.row_stride, 1,
                task.out + static_cast<std::int64_t>(first) * tile_keys, tile_keys);
  }
}

inline __attribute__((always_inline)) Floats logit(Floats dot, const LogitRule& rule) {
  return rule.cap == 0 ? dot : rule.cap * tanh_fast(dot);
}

/// Lanes of a tile starting at `lane` that lie in [first, end), both counted from the tile's first
/// key.
inline Ints visible_lanes(int lane, std::int64_t first, std::int64_t end) {
  const std::int64_t low = first < 0 ? 0 : (first > tile_keys ? tile_keys : first);
  const std::int64_t high = end < 0 ? 0 : (end > tile_keys ? tile_keys : end);
  const Ints index = lane_index() + lane;
  return (index >= static_cast<std::int32_t>(low)) & (index < static_cast<std::int32_t>(high));
}

inline void pack(const PackTask& task) {
  const int tiles = (task.count + tile_keys - 1) / tile_keys;
  for (int tile = 0; tile < tiles; ++tile) {
    float* to = task.packed + static_cast<std::int64_t>(tile) * task.head_dim * tile_keys;
    const int first = tile * tile_keys;
    for (int lane = 0; lane < tile_keys; ++lane) {
      const bool real = first + lane < task.count;
      const float* from = task.keys + (first + (real ? lane : 0)) * task.key_stride;
      const float factor = real ? task.factor : 0;
      for (int d = 0; d < task.head_dim; ++d) {
        to[static_cast<std::int64_t>(d) * tile_keys + lane] = real ? from[d] * factor : 0;
      }
    }
  }
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
