#pragma once

#include "tile/forward.h"
#include "tile/lanes.h"
#include "tile/top.h"

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

/// Dot products of one query with `width` keys, which stay in the inner cache for the next query.
/// With Fetch as many numbers from `ahead` on are asked for meanwhile: memory is what bounds a pass
/// of few queries, and these loops read rows of too few bytes for the processor to run ahead
/// itself.
template <bool Fetch, typename T>
inline Floats dots_of_block(const float* query, const T* keys, std::int64_t key_stride,
                            int head_dim, const T* ahead) {
  constexpr int line = 64 / sizeof(T);
  Floats sums[width] = {};
  for (int c = 0; c < head_dim; c += width) {
    const Floats q = load(query + c);
    KVSCOPE_UNROLL
    for (int key = 0; key < width; ++key) {
      if (Fetch && key * width % line == 0) {
        __builtin_prefetch(ahead + (c + key) * width, 0, 2);
      }
      sums[key] += q * load(keys + key * key_stride + c);
    }
  }
  return sums_of_lanes(sums);
}

/// weights[head][key] = logits before cap and multiplicity. The first query's loop asks for the
/// next keys, the second one's for the values of these.
template <typename T>
inline void row_dots(const RowTask& task, const T* keys_of_head, const T* values, int keys) {
  int i = 0;
  for (; task.head_dim % width == 0 && i + width <= keys; i += width) {
    const T* block = keys_of_head + (task.first_key + i) * task.key_stride;
    for (int head = 0; head < task.group; ++head) {
      const float* query = task.queries + head * task.head_stride;
      Floats dots;
      if (head == 0) {
        dots = dots_of_block<true>(query, block, task.key_stride, task.head_dim,
                                   block + width * task.key_stride);
      } else if (head == 1 && values != nullptr) {
        dots = dots_of_block<true>(query, block, task.key_stride, task.head_dim,
                                   values + i * task.value_stride);
      } else {
        dots = dots_of_block<false>(query, block, task.key_stride, task.head_dim, block);
      }
      store(task.weights + head * row_keys + i, dots * task.rule.key_factor);
    }
  }
  for (; i < keys; ++i) {
    const T* key = keys_of_head + (task.first_key + i) * task.key_stride;
    for (int head = 0; head < task.group; ++head) {
      task.weights[head * row_keys + i] =
          dot(task.queries + head * task.head_stride, key, task.head_dim) * task.rule.key_factor;
    }
  }
}

/// Channels [0, whole) of the weighted values of `R` heads from `head` on, in registers.
template <int R, typename T>
inline void head_values(const RowTask& task, const T* values, int keys, int head, int whole) {
  static_assert(row_keys == stripe_keys, "add_values reads rows of weights that far apart");
  const std::int64_t state_size = row_state + task.value_dim;
  for (int c = 0; c < whole; c += 2 * width) {
    add_values<R, 2>(task.weights + head * row_keys, values + c, task.value_stride, keys,
                     task.partial + head * state_size + row_state + c, state_size, R);
  }
}

/// Adds the weighted values: heads and channels in registers where they come in whole vectors.
/// Weights of heads that are not there are not read: exactly as many at once as there are.
template <typename T>
inline void row_values(const RowTask& task, const T* values, int keys) {
  const std::int64_t state_size = row_state + task.value_dim;
  const int whole = task.value_dim / (2 * width) * 2 * width;
  int head = 0;
  for (; head + 4 <= task.group; head += 4) {
    head_values<4>(task, values, keys, head, whole);
  }
  switch (task.group - head) {
    case 3:
      head_values<3>(task, values, keys, head, whole);
      break;
    case 2:
      head_values<2>(task, values, keys, head, whole);
      break;
    case 1:
      head_values<1>(task, values, keys, head, whole);
      break;
    default:
      break;
  }
  for (int i = 0; whole < task.value_dim && i < keys; ++i) {
    for (head = 0; head < task.group; ++head) {
      add_scaled(values + i * task.value_stride + whole, task.weights[head * row_keys + i],
                 task.value_dim - whole, task.partial + head * state_size + row_state + whole);
    }
  }
}

/// K and V of the range are read once for the whole group.
template <typename T>
inline void rows_over(const RowTask& task, const T* keys_of_head, const T* values_of_head) {
  const int keys = task.end_key - task.first_key;
  const int padded = (keys + width - 1) / width * width;
  const T* values =
      values_of_head == nullptr ? nullptr : values_of_head + task.first_key * task.value_stride;
  row_dots(task, keys_of_head, values, keys);
  const std::int64_t state_size = row_state + task.value_dim;
  for (int head = 0; head < task.group; ++head) {
    float* weights = task.weights + head * row_keys;
    float* state = task.partial + head * state_size;
    state[0] = no_key_yet;
    state[1] = state[2] = 0;
    finish_logits(task, weights, keys, padded);
    stripe_softmax<true>(weights, padded, state[0], state[1], state[2]);
    if (task.maxima != nullptr) {  // only the processor that made the weights has them at hand
      group_maxima(weights, keys, task.maxima + head * row_maxima);
    }
    for (int c = 0; c < task.value_dim; ++c) {
      state[row_state + c] = 0;
    }
  }
  if (values != nullptr) {
    row_values(task, values, keys);
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
