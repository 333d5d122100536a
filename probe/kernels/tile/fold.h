#pragma once

#include "tile/vector.h"

namespace kvscope::tile::KVSCOPE_TILE_ISA {

/// Four vectors of keys at a time: their twelve sums stay in registers over all rows.
inline void fold(const FoldTask& task) {
  constexpr int vectors = 4;
  for (int key = 0; key < stripe_keys; key += vectors * width) {
    Floats sum[vectors] = {};
    Floats squares[vectors] = {};
    Floats largest[vectors] = {};
    for (int row = 0; row < task.rows; ++row) {
      const Floats factor = broadcast(task.factors[row]);
      const float* weights = task.weights + static_cast<std::int64_t>(row) * stripe_keys + key;
      KVSCOPE_UNROLL
      for (int v = 0; v < vectors; ++v) {
        const Floats p = load(weights + v * width) * factor;
        sum[v] += p;
        squares[v] += p * p;
        largest[v] = larger(p, largest[v]);
      }
    }
    KVSCOPE_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const int at = key + v * width;
      store(task.sum + at, load(task.sum + at) + sum[v]);
      store(task.squares + at, load(task.squares + at) + squares[v]);
      store(task.largest + at, larger(largest[v], load(task.largest + at)));
    }
  }
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
