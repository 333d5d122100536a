#pragma once

#include "kvscope/kernels/ranked_value.h"
#include "tile/lanes.h"
#include "tile/tasks.h"

namespace kvscope::tile::KVSCOPE_TILE_ISA {

inline Floats without_nan(Floats value) {
  return value == value ? value : broadcast(-__builtin_inff());
}

/// The largest of each group of values; NaN is left out, and -inf is the largest of none.
inline void group_maxima(const float* values, std::int64_t count, float* maxima) {
  constexpr int group = ScaledValues::group;
  static_assert(group % width == 0);
  std::int64_t first = 0;
  for (; first + group * width <= count; first += group * width) {
    Floats best[width];
    for (int k = 0; k < width; ++k) {
      const float* from = values + first + group * k;
      best[k] = without_nan(load(from));
      for (int i = width; i < group; i += width) {
        best[k] = larger(best[k], without_nan(load(from + i)));
      }
    }
    store(maxima, maxima_of_lanes(best));
    maxima += width;
  }
  for (; first < count; first += group) {
    float best = -__builtin_inff();
    for (std::int64_t i = first; i < first + group && i < count; ++i) {
      best = values[i] > best ? values[i] : best;
    }
    *maxima++ = best;
  }
}

/// How many reach it.
inline std::int64_t count_reaching(const float* values, std::int64_t count, float level) {
  Ints found[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * width <= count; i += 4 * width) {
    KVSCOPE_UNROLL
    for (int part = 0; part < 4; ++part) {
      found[part] += load(values + i + part * width) >= level;  // -1 where it holds
    }
  }
  for (; i + width <= count; i += width) {
    found[0] += load(values + i) >= level;
  }
  const Ints all = (found[0] + found[1]) + (found[2] + found[3]);
  std::int64_t reaching = 0;
  for (int lane = 0; lane < width; ++lane) {
    reaching -= all[lane];
  }
  for (; i < count; ++i) {
    reaching += values[i] >= level ? 1 : 0;
  }
  return reaching;
}

/// Sum of exp(value - largest), natural; NaN where a value is.
inline float sum_of_exp(const float* values, std::int64_t count, float largest) {
  constexpr float log2_of_e = 1.44269504f;
  Floats sum[2] = {};
  std::int64_t i = 0;
  for (; i + 2 * width <= count; i += 2 * width) {
    KVSCOPE_UNROLL
    for (int part = 0; part < 2; ++part) {
      sum[part] += exp2_fast((load(values + i + part * width) - largest) * log2_of_e);
    }
  }
  float lanes[2 * width];
  for (int lane = 0; lane < 2 * width; ++lane) {
    lanes[lane] = i + lane < count ? values[i + lane] : -__builtin_inff();
  }
  for (int part = 0; part < 2; ++part) {
    sum[part] += exp2_fast((load(lanes + part * width) - largest) * log2_of_e);
  }
  return sum_of_lanes(sum[0] + sum[1]);
}

/// Floats in the order of integers, and back.
inline std::int32_t order_of(float value) {
  const auto bits = __builtin_bit_cast(std::int32_t, value);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
inline float of_order(std::int32_t order) {
  return __builtin_bit_cast(float, order < 0 ? order ^ 0x7fffffff : order);
}

/// NaN is left out; -inf of none.
inline float largest_of(const float* values, std::int64_t count) {
  Floats best[2] = {broadcast(-__builtin_inff()), broadcast(-__builtin_inff())};
  std::int64_t i = 0;
  for (; i + 2 * width <= count; i += 2 * width) {
    best[0] = larger(load(values + i), best[0]);
    best[1] = larger(load(values + i + width), best[1]);
  }
  float largest = max_of_lanes(larger(best[0], best[1]));
  for (; i < count; ++i) {
    largest = values[i] > largest ? values[i] : largest;
  }
  return largest;
}

/// A number that at least `wanted` of the values reach, and not many more unless they are equal;
/// -inf where there are no more than that.
inline float level_of(const float* values, std::int64_t count, std::int64_t wanted) {
  const float largest = largest_of(values, count);
  const std::int32_t lowest = order_of(-__builtin_inff());
  std::int64_t low = lowest;
  std::int64_t high = std::int64_t{order_of(largest)} + 1;  // not reached by `wanted`
  const std::int64_t near = std::int64_t{order_of(largest)} - (std::int64_t{16} << 23);
  if (near > low && count_reaching(values, count, of_order(static_cast<std::int32_t>(near))) >=
                        wanted) {  // as it mostly is: within a factor of 2^16
    low = near;
  }
  while (low + 1 < high) {
    const std::int64_t middle = low + (high - low) / 2;
    const std::int64_t reaching =
        count_reaching(values, count, of_order(static_cast<std::int32_t>(middle)));
    if (reaching < wanted) {
      high = middle;
      continue;
    }
    low = middle;
    if (reaching <= wanted + wanted / 4) {
      break;
    }
  }
  return of_order(static_cast<std::int32_t>(low));
}

/// One group times the factor, with NaN behind its last value.
inline void copy_group(const ScaledValues& piece, std::int64_t first, float* to) {
  constexpr int group = ScaledValues::group;
  if (first + group <= piece.count) {
    for (int i = 0; i < group; i += width) {
      store(to + i, load(piece.values + first + i) * piece.factor);
    }
    return;
  }
  for (std::int64_t i = 0; i < group; ++i) {
    to[i] = first + i < piece.count ? piece.values[first + i] * piece.factor : __builtin_nanf("");
  }
}

/// Copies groups whose maximum reaches the level, all where maxima are not known: their numbers
/// [groups][group] and the index of the first of each. How many they are. All are sent for before
/// the first is read, as they may lie in another processor's cache.
inline std::int64_t gather(const ScaledValues& piece, float level, float* numbers,
                           std::int32_t* first_index) {
  constexpr int group = ScaledValues::group;
  const std::int64_t groups = (piece.count + group - 1) / group;
  std::int64_t count = 0;
  for (std::int64_t at = 0; at < groups; ++at) {
    if (piece.maxima == nullptr || piece.maxima[at] * piece.factor >= level) {
      __builtin_prefetch(piece.values + at * group);
      first_index[count++] = static_cast<std::int32_t>(at * group);
    }
  }
  for (std::int64_t i = 0; i < count; ++i) {
    copy_group(piece, first_index[i], numbers + i * group);
    first_index[i] += piece.first_index;
  }
  return count;
}

/// Lists what reaches the level of gathered groups, in order, of room for `room`; how many it is,
/// or more than `room`.
inline std::int64_t list(const float* numbers, const std::int32_t* first_index, std::int64_t groups,
                         float level, RankedValue* to, std::int64_t room) {
  constexpr int group = ScaledValues::group;
  std::int64_t found = 0;
  for (std::int64_t at = 0; at < groups && found <= room; ++at) {
    for (int i = 0; i < group; i += width) {
      const float* lanes = numbers + at * group + i;
      for (unsigned bits = bits_of(load(lanes) >= level); bits != 0; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        if (found < room) {
          to[found] = {first_index[at] + i + lane, lanes[lane]};
        }
        ++found;
      }
    }
  }
  return found;
}

/// The first `wanted` of up to `most_ranked` values that stand by index, descending. Each one's
/// rank is counted: no branch depends on how they compare.
inline void rank(const RankedValue* values, int count, int wanted, RankedValue* to) {
  float value[most_ranked];
  const int padded = (count + width - 1) / width * width;
  for (int i = 0; i < padded; ++i) {
    value[i] = i < count ? values[i].value : -__builtin_inff();
  }
  for (int i = 0; i < count; ++i) {
    Ints before{};
    for (int j = 0; j < padded; j += width) {
      const Floats other = load(value + j);
      const Ints equal_before = (other == value[i]) & (lane_index() < i - j);
      before += (other > value[i]) | equal_before;
    }
    int at = 0;
    for (int lane = 0; lane < width; ++lane) {
      at -= before[lane];
    }
    if (at < wanted) {
      to[at] = values[i];
    }
  }
}

}  // namespace kvscope::tile::KVSCOPE_TILE_ISA
