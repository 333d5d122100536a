#pragma once

#include "tile/logits.h"

namespace kvscope::tile::KVSCOPE_TILE_ISA {

inline constexpr int group_rows =
    12;  ///< rows whose logits over one stripe are in scratch at a time
inline constexpr float no_key_yet = -1e30f;
inline constexpr double ln_2 = 0.693147180559945309;

/// Running softmax of the rows of one head, and the output before division.
struct RowState {
  float* output = nullptr;    ///< [rows][padded]
  float* largest = nullptr;   ///< [rows] log2 units
  float* sum = nullptr;       ///< [rows] of weights
  float* weighted = nullptr;  ///< [rows] of weight times (logit - largest)
  int padded = 0;
};

/// Cap, multiplicity and mask of one tile of one row of dot products, in place.
inline void finish_logits(const ForwardTask& task, int row, int tile_first, float* logits) {
  const int first = task.first_visible[row] - tile_first;
  const int end = task.end_visible[row] - tile_first;
  if (task.rule.cap == 0 && task.bias == nullptr && first <= 0 && end >= tile_keys) {
    return;
  }
  const Floats hidden = broadcast(-__builtin_inff());
  for (int lane = 0; lane < tile_keys; lane += width) {
    Floats s = logit(load(logits + lane), task.rule);
    if (task.bias != nullptr) {
      s += load(task.bias + tile_first + lane);
    }
    store(logits + lane, select(visible_lanes(lane, first, end), s, hidden));
  }
}

/// Logits of up to R rows over the stripe into scratch [row][stripe_keys]; -inf where not seen.
template <int R>
inline void stripe_logits(const ForwardTask& task, const float* q, int first_row, int count,
                          int first_key, int keys, float* logits) {
  for (int key = 0; key < keys; key += tile_keys) {
    const int tile_first = first_key + key;
    dot_rows<R>(task.packed + static_cast<std::int64_t>(tile_first) * task.head_dim, task.head_dim,
                q, task.row_stride, count, logits + key, stripe_keys);
    for (int t = 0; t < count; ++t) {
      finish_logits(task, first_row + t, tile_first, logits + t * stripe_keys + key);
    }
  }
}

/// Turns one row of logits into weights against the new running maximum; returns what the old sums
/// are to be multiplied by. `Weighted`: keeps the sum that entropy is made of.
template <bool Weighted>
inline float stripe_softmax(float* logits, int keys, float& largest, float& sum, float& weighted) {
  Floats best = broadcast(largest);
  for (int key = 0; key < keys; key += width) {
    best = larger(load(logits + key), best);
  }
  const float now = max_of_lanes(best);
  Floats total{};
  Floats total_weighted{};
  for (int key = 0; key < keys; key += width) {
    const Floats below = load(logits + key) - now;
    const Floats p = exp2_fast(below);
    total += p;
    if constexpr (Weighted) {
      total_weighted += p * larger(below, broadcast(-150.0f));  // p = 0 where it is -inf
    }
    store(logits + key, p);
  }
  const float rescale = exp2_fast(broadcast(largest - now))[0];
  if constexpr (Weighted) {
    weighted = (weighted + sum * (largest - now)) * rescale + sum_of_lanes(total_weighted);
  }
  sum = sum * rescale + sum_of_lanes(total);
  largest = now;
  return rescale;
}

/// output[row][channel .. channel + V * width) += weights[row] * values over the stripe.
template <int R, int V, typename T>
__attribute__((noinline)) void add_values(const float* weights, const T* values,
                                          std::int64_t value_stride, int keys, float* output,
                                          std::int64_t output_stride, int count) {
  Floats sums[R][V];
  KVSCOPE_UNROLL
  for (int t = 0; t < R; ++t) {
    KVSCOPE_UNROLL
    for (int v = 0; v < V; ++v) {
      sums[t][v] = load(output + (t < count ? t : count - 1) * output_stride + v * width);
    }
  }
  for (int key = 0; key < keys; ++key) {
    Floats value[V];
    KVSCOPE_UNROLL
    for (int v = 0; v < V; ++v) {
      value[v] = load(values + key * value_stride + v * width);
    }
    KVSCOPE_UNROLL
    for (int t = 0; t < R; ++t) {
      const Floats weight = broadcast(weights[t * stripe_keys + key]);
      KVSCOPE_UNROLL
      for (int v = 0; v < V; ++v) {
        sums[t][v] += weight * value[v];
      }
    }
  }
  KVSCOPE_UNROLL
  for (int t = 0; t < R; ++t) {
    KVSCOPE_UNROLL
    for (int v = 0; v < V; ++v) {
      if (t < count) {
        store(output + t * output_stride + v * width, sums[t][v]);
      }
    }
  }
}

/// One stripe of keys and (padded) values for rows [first_row, first_row + count) of one head.
template <int R>
inline void forward_rows_of(const ForwardTask& task, const float* q, const RowState& state,
                            int first_row, int count, int first_key, int keys, const float* values,
                            std::int64_t value_stride, float* logits) {
  const int padded_keys = (keys + tile_keys - 1) / tile_keys * tile_keys;
  stripe_logits<R>(task, q, first_row, count, first_key, keys, logits);
  for (int t = 0; t < count; ++t) {
    const int row = first_row + t;
    const auto softmax = task.entropy != nullptr ? stripe_softmax<true> : stripe_softmax<false>;
    const float rescale = softmax(logits + t * stripe_keys, padded_keys, state.largest[row],
                                  state.sum[row], state.weighted[row]);
    if (task.values != nullptr && rescale != 1.0f) {
      float* output = state.output + static_cast<std::int64_t>(row) * state.padded;
      for (int c = 0; c < state.padded; c += width) {
        store(output + c, load(output + c) * rescale);
      }
    }
  }
  if (task.values == nullptr) {
    return;
  }
  float* output = state.output + static_cast<std::int64_t>(first_row) * state.padded;
  int channel = 0;
  for (; channel + 2 * width <= state.padded; channel += 2 * width) {
    add_values<R, 2>(logits, values + channel, value_stride, keys, output + channel, state.padded,
                     count);
  }
  if (channel < state.padded) {
    add_values<R, 1>(logits, values + channel, value_stride, keys, output + channel, state.padded,
                     count);
  }
}

/// What a stripe leaves behind for column statistics: the maxima its weights were taken against,
/// and zeros where rows [first, first + count) were not computed.
inline void keep_stripe(const ForwardTask& task, const RowState& state, int first, int count,
                        int first_key, int seen) {
  const std::int64_t stripe = first_key / stripe_keys;
  const int begin = seen > 0 ? (seen + tile_keys - 1) / tile_keys * tile_keys : 0;
  for (int row = first; row < first + count; ++row) {
    float* weights = task.weights + (stripe * task.rows + row) * stripe_keys;
    for (int key = begin; key < stripe_keys; key += width) {
      store(weights + key, Floats{});
    }
    task.factors[stripe * forward_rows + row] = state.largest[row];
  }
}

inline void forward_stripe(const ForwardTask& task, const RowState* states, int first_key, int keys,
                           float* logits, float* packed_values, int padded) {
  const float* values = nullptr;
  std::int64_t value_stride = task.value_stride;
  if (task.values != nullptr) {
    values = task.values + first_key * task.value_stride;
    if (padded != task.value_dim) {
      for (int key = 0; key < keys; ++key) {
        for (int c = 0; c < padded; ++c) {
          packed_values[static_cast<std::int64_t>(key) * padded + c] =
              c < task.value_dim ? values[key * task.value_stride + c] : 0;
        }
      }
      values = packed_values;
      value_stride = padded;
    }
  }
  for (int head = 0; head < task.group; ++head) {
    for (int row = 0; row < task.rows;) {
      const int left = task.rows - row;
      const int count = left < tile_rows ? left : tile_rows;
      int first = task.first_visible[row];
      int end = task.end_visible[row];
      for (int t = 1; t < count; ++t) {
        first = task.first_visible[row + t] < first ? task.first_visible[row + t] : first;
        end = task.end_visible[row + t] > end ? task.end_visible[row + t] : end;
      }
      int seen = end - first_key < keys ? end - first_key : keys;
      seen = first < first_key + keys ? seen : 0;
      if (seen > 0) {
        const float* q = task.queries + head * task.head_stride + row * task.row_stride;
        if (task.weights != nullptr) {
          logits =
              task.weights +
              (static_cast<std::int64_t>(first_key / stripe_keys) * task.rows + row) * stripe_keys;
        }
        if (count > 4) {
          forward_rows_of<tile_rows>(task, q, states[head], row, count, first_key, seen, values,
                                     value_stride, logits);
        } else {
          forward_rows_of<4>(task, q, states[head], row, count, first_key, seen, values,
                             value_stride, logits);
        }
      }
      if (task.weights != nullptr) {
        keep_stripe(task, states[head], row, count, first_key, seen);
      }
      row += count;
    }
  }
}

inline void forward_finish(const ForwardTask& task, const RowState& state, int head) {
  for (int row = 0; row < task.rows; ++row) {
    const bool empty = !(state.sum[row] > 0) && state.sum[row] == 0;
    if (task.lse != nullptr) {
      task.lse[head * task.lse_head_stride + row] =
          empty ? -__builtin_inff()
                : static_cast<float>((static_cast<double>(state.largest[row]) +
                                      __builtin_log2(static_cast<double>(state.sum[row]))) *
                                     ln_2);
    }
    if (task.entropy != nullptr) {
      const double sum = static_cast<double>(state.sum[row]);
      const double nats =
          empty ? 0 : (__builtin_log2(sum) - static_cast<double>(state.weighted[row]) / sum) * ln_2;
      task.entropy[head * task.lse_head_stride + row] = nats < 0 ? 0.0f : static_cast<float>(nats);
    }
    if (task.values == nullptr) {
      continue;
    }
    const float scale = empty ? 0.0f : 1.0f / state.sum[row];
    float* to = task.output + head * task.output_head_stride + row * task.output_row_stride;
    const float* from = state.output + static_cast<std::int64_t>(row) * state.padded;
    for (int c = 0; c < task.value_dim; ++c) {
      to[c] = from[c] * scale;
    }
  }
}

/// From the maxima of the stripes to what makes probabilities of their weights.
inline void finish_factors(const ForwardTask& task, const RowState& state, int begin, int end) {
  for (int row = 0; row < task.rows; row += width) {
    const Floats largest = load(state.largest + row);
    const Floats sum = load(state.sum + row);
    const Floats share = select(sum == Floats{}, Floats{}, 1.0f / sum);
    for (int key = begin; key < end; key += stripe_keys) {
      float* factors =
          task.factors + static_cast<std::int64_t>(key / stripe_keys) * forward_rows + row;
      store(factors, exp2_fast(load(factors) - largest) * share);
    }
  }
}

inline void forward(const ForwardTask& task) {
  const int padded = (task.value_dim + width - 1) / width * width;
  float* logits = task.scratch;
  float* packed_values = logits + group_rows * stripe_keys;
  float* state_memory = packed_values + static_cast<std::int64_t>(stripe_keys) * padded;
  RowState states[max_group];
  int begin = task.first_visible[0];
  int end = task.end_visible[0];
  for (int row = 0; row < task.rows; ++row) {
    begin = task.first_visible[row] < begin ? task.first_visible[row] : begin;
    end = task.end_visible[row] > end ? task.end_visible[row] : end;
  }
  for (int head = 0; head < task.group; ++head) {
    RowState& state = states[head];
    state.padded = padded;
    state.output = state_memory;
    state.largest = state.output + static_cast<std::int64_t>(forward_rows) * padded;
    state.sum = state.largest + forward_rows;
    state.weighted = state.sum + forward_rows;
    state_memory = state.weighted + forward_rows;
    for (float* cell = state.output; cell != state.largest; ++cell) {
      *cell = 0;
    }
    for (int row = 0; row < forward_rows; ++row) {
      state.largest[row] = no_key_yet;
      state.sum[row] = 0;
      state.weighted[row] = 0;
    }
  }
  const int first_key = begin / stripe_keys * stripe_keys;
  for (int key = first_key; key < end; key += stripe_keys) {
    const int keys = end - key < stripe_keys ? end - key : stripe_keys;
    forward_stripe(task, states, key, keys, logits, packed_values, padded);
  }
  if (task.weights != nullptr) {
    finish_factors(task, states[0], first_key, end);
  }
  for (int head = 0; head < task.group; ++head) {
    forward_finish(task, states[head], head);
  }
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
