#pragma once

#include "tile/logits.h"

namespace kvscope::tile::KVSCOPE_TILE_ISA {

/// Partial column results of one tile over one block of rows.
struct ColumnSums {
  Floats sum[2] = {};
  Floats squares[2] = {};
  Floats largest[2] = {};

  inline __attribute__((always_inline)) void add(int half, Floats p) {
    sum[half] += p;
    squares[half] += p * p;
    largest[half] = larger(p, largest[half]);
  }
};

/// Where a tile stands against the mask: row t sees tile keys [position + t - window + 1, position
/// + t].
struct TileMask {
  std::int64_t position = 0;
  int window = 0;
  int keys = tile_keys;

  bool hides_any(int rows) const {
    return position < tile_keys - 1 || keys < tile_keys ||
           (window > 0 && position + rows - 1 - window >= 0);
  }
  Ints lanes(int lane, int t) const {
    const std::int64_t end = position + t + 1;
    return visible_lanes(lane, window > 0 ? end - window : 0, end < keys ? end : keys);
  }
};

struct ColumnRows {
  const float* queries = nullptr;  ///< row 0 of the tile
  std::int64_t row_stride = 0;
  const float* lse = nullptr;
  float* p_log_p = nullptr;  ///< [rows][width] partial sums of the block, or null
};

/// Logits of `count` rows against one tile become probabilities and are added to the columns.
template <bool Masked>
inline __attribute__((always_inline)) void finish_rows(const float* dots, const ColumnRows& rows,
                                                       int count, const LogitRule& rule,
                                                       const TileMask& mask, ColumnSums& total) {
  ColumnSums sums = total;
  for (int t = 0; t < count; ++t) {
    const Floats lse = broadcast(rows.lse[t]);
    const Floats low = logit(load(dots + t * tile_keys), rule) - lse;
    const Floats high = logit(load(dots + t * tile_keys + width), rule) - lse;
    Floats p_low = exp2_fast(low);
    Floats p_high = exp2_fast(high);
    if constexpr (Masked) {
      p_low = select(mask.lanes(0, t), p_low, Floats{});
      p_high = select(mask.lanes(width, t), p_high, Floats{});
    }
    sums.add(0, p_low);
    sums.add(1, p_high);
    if (rows.p_log_p != nullptr) {
      // p = 0 with log p = -inf (a row that sees nothing) adds nothing.
      const Floats floor = broadcast(-150.0f);
      float* to = rows.p_log_p + t * width;
      store(to, load(to) + p_low * larger(low, floor) + p_high * larger(high, floor));
    }
  }
  total = sums;
}

template <int R>
inline void column_rows(const float* packed, int head_dim, const ColumnRows& rows, int count,
                        const LogitRule& rule, const TileMask& mask, ColumnSums& sums) {
  alignas(64) float dots[R * tile_keys];
  dot_rows<R>(packed, head_dim, rows.queries, rows.row_stride, count, dots, tile_keys);
  if (mask.hides_any(count)) {
    finish_rows<true>(dots, rows, count, rule, mask, sums);
  } else {
    finish_rows<false>(dots, rows, count, rule, mask, sums);
  }
}

/// Rows [first, last) of a block of one head against one tile.
inline void column_block(const ColumnTask& task, const float* packed, const ColumnRows& start,
                         int first, int last, TileMask mask, ColumnSums& sums) {
  for (int row = first; row < last;) {
    const int left = last - row;
    ColumnRows rows = start;
    rows.queries += row * start.row_stride;
    rows.lse += row;
    rows.p_log_p = start.p_log_p == nullptr ? nullptr : start.p_log_p + row * width;
    TileMask here = mask;
    here.position += row;
    if (left > 4) {
      const int count = left < tile_rows ? left : tile_rows;
      column_rows<tile_rows>(packed, task.head_dim, rows, count, task.rule, here, sums);
      row += count;
    } else if (left > 1) {
      column_rows<4>(packed, task.head_dim, rows, left, task.rule, here, sums);
      row = last;
    } else {
      column_rows<1>(packed, task.head_dim, rows, 1, task.rule, here, sums);
      ++row;
    }
  }
}

inline void fold(const ColumnSums& sums, float* columns, int first_key) {
  for (int half = 0; half < 2; ++half) {
    float* sum = columns + first_key + half * width;
    float* squares = sum + stripe_keys;
    float* largest = squares + stripe_keys;
    store(sum, load(sum) + sums.sum[half]);
    store(squares, load(squares) + sums.squares[half]);
    store(largest, larger(sums.largest[half], load(largest)));
  }
}

/// One block of `count` rows of one head, the first at `position` from the stripe's first key,
/// against every tile of the stripe.
inline void column_tiles(const ColumnTask& task, const ColumnRows& block, std::int64_t position,
                         int count, float* columns) {
  for (int key = 0; key < task.keys; key += tile_keys) {
    TileMask mask;
    mask.position = position - key;
    mask.window = task.window;
    mask.keys = task.keys - key < tile_keys ? task.keys - key : tile_keys;
    std::int64_t first = mask.position < 0 ? -mask.position : 0;
    std::int64_t last = count;
    if (task.window > 0 && mask.keys - 1 + task.window - mask.position < last) {
      last = mask.keys - 1 + task.window - mask.position;
    }
    if (first < last) {
      ColumnSums sums;
      column_block(task, task.packed + static_cast<std::int64_t>(key) * task.head_dim, block,
                   static_cast<int>(first), static_cast<int>(last), mask, sums);
      fold(sums, columns, key);
    }
  }
}

/// Rows [first, first + count) of one head: clears and folds the per-query partial sums.
inline void column_head_block(const ColumnTask& task, int head, int first, int count,
                              float* columns) {
  ColumnRows block;
  block.queries = task.queries + head * task.head_stride + first * task.row_stride;
  block.row_stride = task.row_stride;
  block.lse = task.lse + static_cast<std::int64_t>(head) * task.rows + first;
  block.p_log_p = task.p_log_p == nullptr ? nullptr : task.scratch;
  for (int i = 0; block.p_log_p != nullptr && i < count; ++i) {
    store(block.p_log_p + i * width, Floats{});
  }
  column_tiles(task, block, task.row_position + first, count, columns);
  for (int i = 0; block.p_log_p != nullptr && i < count; ++i) {
    task.p_log_p[head * task.p_log_p_stride + first + i] +=
        sum_of_lanes(load(block.p_log_p + i * width));
  }
}

inline void columns(const ColumnTask& task) {
  for (int head = 0; head < task.group; ++head) {
    for (int segment = 0; segment < task.segments; ++segment) {
      float* to =
          task.columns + (static_cast<std::int64_t>(segment) * task.group + head) * 3 * stripe_keys;
      const int bound = task.bounds[segment + 1];
      for (int first = task.bounds[segment]; first < bound; first += block_rows) {
        const int count = bound - first < block_rows ? bound - first : block_rows;
        if (task.row_position + first + count > 0) {
          column_head_block(task, head, first, count, to);
        }
      }
    }
  }
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
