#pragma once

#include "tile/forward.h"

namespace kvscope::tile::KVSCOPE_TILE_ISA {

/// Dot products of one key with the queries of a group, channels along the lanes.
template <typename T>
inline float dot(const float* a, const T* b, int count) {
  Floats sum[4] = {};
  int c = 0;
  for (; c + 4 * width <= count; c += 4 * width) {
    KVSCOPE_UNROLL
    for (int i = 0; i < 4; ++i) {
      sum[i] += load(a + c + i * width) * load(b + c + i * width);
    }
  }
  for (; c + width <= count; c += width) {
    sum[0] += load(a + c) * load(b + c);
  }
  float rest = 0;
  for (; c < count; ++c) {
    rest += a[c] * value_of(b[c]);
  }
  return sum_of_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

template <typename T>
inline void add_scaled(const T* from, float weight, int count, float* to) {
  int c = 0;
  for (; c + width <= count; c += width) {
    store(to + c, load(to + c) + weight * load(from + c));
  }
  for (; c < count; ++c) {
    to[c] += weight * value_of(from[c]);
  }
}

/// Dot products become logits; cells beyond the last key are -inf.
inline void finish_logits(const RowTask& task, float* weight, int keys, int padded) {
  for (int i = keys; i < padded; ++i) {
    weight[i] = 0;
  }
  for (int i = 0; task.rule.cap != 0 && i < padded; i += width) {
    store(weight + i, logit(load(weight + i), task.rule));
  }
  for (int i = 0; task.bias != nullptr && i < keys; ++i) {
    weight[i] += task.bias[task.first_key + i];
  }
  for (int i = keys; i < padded; ++i) {
    weight[i] = -__builtin_inff();
  }
}

/// K and V of the range are read once for the whole group.
template <typename T>
inline void rows_over(const RowTask& task, const T* keys_of_head, const T* values_of_head) {
  const int keys = task.end_key - task.first_key;
  const int padded = (keys + width - 1) / width * width;
  float* weights = task.weights;
  for (int i = 0; i < keys; ++i) {
    const T* key = keys_of_head + (task.first_key + i) * task.key_stride;
    for (int head = 0; head < task.group; ++head) {
      weights[head * row_keys + i] =
          dot(task.queries + head * task.head_stride, key, task.head_dim) * task.rule.key_factor;
    }
  }
  const std::int64_t state_size = row_state + task.value_dim;
  for (int head = 0; head < task.group; ++head) {
    float* state = task.partial + head * state_size;
    state[0] = no_key_yet;
    state[1] = state[2] = 0;
    finish_logits(task, weights + head * row_keys, keys, padded);
    stripe_softmax<true>(weights + head * row_keys, padded, state[0], state[1], state[2]);
    for (int c = 0; c < task.value_dim; ++c) {
      state[row_state + c] = 0;
    }
  }
  for (int i = 0; values_of_head != nullptr && i < keys; ++i) {
    const T* value = values_of_head + (task.first_key + i) * task.value_stride;
    for (int head = 0; head < task.group; ++head) {
      add_scaled(value, weights[head * row_keys + i], task.value_dim,
                 task.partial + head * state_size + row_state);
    }
  }
}

inline void rows(const RowTask& task) {
  if (task.bfloat16) {
    rows_over(task, static_cast<const std::uint16_t*>(task.keys),
              static_cast<const std::uint16_t*>(task.values));
  } else {
    rows_over(task, static_cast<const float*>(task.keys), static_cast<const float*>(task.values));
  }
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
