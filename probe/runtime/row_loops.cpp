#include "row_loops.h"

#include <bit>
#include <cmath>

#include "instruction_set.h"

namespace kvscope::detail {
namespace {

#define KVSCOPE_INLINE inline __attribute__((always_inline))

KVSCOPE_INLINE float load(float value) {
  return value;
}
KVSCOPE_INLINE float load(Bf16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
KVSCOPE_INLINE void store(float value, float& out) {
  out = value;
}
/// Round to nearest even; NaN does not occur in finite models and would stay a NaN or become
/// infinite.
KVSCOPE_INLINE void store(float value, Bf16& out) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  out.bits = static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// exp(x) to 2e-7 relative for x in [-87, 87], clamped outside: 2^n by exponent bits, and a
/// polynomial.
KVSCOPE_INLINE float exp_clamped(float x) {
  constexpr float log2_e = 1.44269504f;
  constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded integer
  float scaled = x * log2_e;
  scaled = scaled < -126.0f ? -126.0f : scaled;
  scaled = scaled > 126.0f ? 126.0f : scaled;
  const float shifted = scaled + round_magic;
  const float fraction = scaled - (shifted - round_magic);
  float sum = 1.54035304e-4f;
  sum = sum * fraction + 1.33335581e-3f;
  sum = sum * fraction + 9.61812911e-3f;
  sum = sum * fraction + 5.55041087e-2f;
  sum = sum * fraction + 2.40226507e-1f;
  sum = sum * fraction + 6.93147181e-1f;
  sum = sum * fraction + 1.0f;
  const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) + 127u) << 23;
  return sum * std::bit_cast<float>(exponent);
}

/// 1 / sqrt(mean(x^2) + epsilon)
template <typename T>
KVSCOPE_INLINE float rms_factor(const T* x, float epsilon, std::int64_t columns) {
  constexpr std::int64_t lanes = 32;
  float partial[lanes] = {};
  std::int64_t channel = 0;
  for (; channel + lanes <= columns; channel += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const float value = load(x[channel + lane]);
      partial[lane] += value * value;
    }
  }
  float squares = 0;
  for (; channel < columns; ++channel) {
    squares += load(x[channel]) * load(x[channel]);
  }
  for (float lane : partial) {
    squares += lane;
  }
  return 1.0f / std::sqrt(squares / static_cast<float>(columns) + epsilon);
}

template <typename T>
KVSCOPE_INLINE void rms_norm_body(const float* x, const float* weight, float epsilon,
                                  std::int64_t rows, std::int64_t columns, T* out) {
  for (std::int64_t row = 0; row < rows; ++row, x += columns, out += columns) {
    const float factor = rms_factor(x, epsilon, columns);
    for (std::int64_t channel = 0; channel < columns; ++channel) {
      store(x[channel] * factor * weight[channel], out[channel]);
    }
  }
}

template <typename T>
KVSCOPE_INLINE void norm_in_place_body(T* x, std::int64_t stride, const float* weight,
                                       float epsilon, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t row = 0; row < rows; ++row, x += stride) {
    const float factor = rms_factor(x, epsilon, columns);
    for (std::int64_t channel = 0; channel < columns; ++channel) {
      store(load(x[channel]) * factor * weight[channel], x[channel]);
    }
  }
}

/// out = gate * sigmoid(slope(gate)) * up: silu with slope x, gelu's tanh form with
/// 2 sqrt(2 / pi) (x + 0.044715 x^3).
template <bool gelu, typename T>
KVSCOPE_INLINE void gated_body(const T* gate_up, std::int64_t rows, std::int64_t columns, T* out) {
  for (std::int64_t row = 0; row < rows; ++row, gate_up += 2 * columns, out += columns) {
    const T* up = gate_up + columns;
    for (std::int64_t channel = 0; channel < columns; ++channel) {
      const float gate = load(gate_up[channel]);
      const float slope = gelu ? 1.59576912f * (gate + 0.044715f * gate * gate * gate) : gate;
      store(gate / (1.0f + exp_clamped(-slope)) * load(up[channel]), out[channel]);
    }
  }
}

template <typename T, typename Out>
KVSCOPE_INLINE void rotate_body(const T* x, std::int64_t stride, const float* cosine,
                                const float* sine, std::int64_t rows, std::int64_t dims,
                                std::int64_t head_dim, Out* out) {
  const std::int64_t half = dims / 2;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t pair = 0; pair < half; ++pair) {
      const float first = load(x[pair]);
      const float second = load(x[pair + half]);
      store(first * cosine[pair] - second * sine[pair], out[pair]);
      store(second * cosine[pair] + first * sine[pair], out[pair + half]);
    }
    for (std::int64_t channel = dims; channel < head_dim; ++channel) {
      store(load(x[channel]), out[channel]);
    }
    x += stride;
    cosine += half;
    sine += half;
    out += head_dim;
  }
}

template <typename T>
KVSCOPE_INLINE void add_body(const T* x, std::int64_t count, float* hidden) {
  for (std::int64_t i = 0; i < count; ++i) {
    hidden[i] += load(x[i]);
  }
}

// One struct of functions for each instruction set; the bodies are inlined into each.
#define KVSCOPE_ROW_LOOPS(SET, TARGET)                                                             \
  template <typename T>                                                                            \
  struct SET {                                                                                     \
    TARGET static void rms_norm(const float* x, const float* weight, float epsilon,                \
                                std::int64_t rows, std::int64_t columns, T* out) {                 \
      rms_norm_body(x, weight, epsilon, rows, columns, out);                                       \
    }                                                                                              \
    TARGET static void swiglu(const T* gate_up, std::int64_t rows, std::int64_t columns, T* out) { \
      gated_body<false>(gate_up, rows, columns, out);                                              \
    }                                                                                              \
    TARGET static void geglu(const T* gate_up, std::int64_t rows, std::int64_t columns, T* out) {  \
      gated_body<true>(gate_up, rows, columns, out);                                               \
    }                                                                                              \
    TARGET static void norm_in_place(T* x, std::int64_t stride, const float* weight,               \
                                     float epsilon, std::int64_t rows, std::int64_t columns) {     \
      norm_in_place_body(x, stride, weight, epsilon, rows, columns);                               \
    }                                                                                              \
    TARGET static void rotate_to_float(const T* x, std::int64_t stride, const float* cosine,       \
                                       const float* sine, std::int64_t rows, std::int64_t dims,    \
                                       std::int64_t head_dim, float* out) {                        \
      rotate_body(x, stride, cosine, sine, rows, dims, head_dim, out);                             \
    }                                                                                              \
    TARGET static void rotate(const T* x, std::int64_t stride, const float* cosine,                \
                              const float* sine, std::int64_t rows, std::int64_t dims,             \
                              std::int64_t head_dim, T* out) {                                     \
      rotate_body(x, stride, cosine, sine, rows, dims, head_dim, out);                             \
    }                                                                                              \
    TARGET static void add(const T* x, std::int64_t count, float* hidden) {                        \
      add_body(x, count, hidden);                                                                  \
    }                                                                                              \
    static constexpr RowLoops<T> table = {rms_norm,        swiglu, geglu, norm_in_place,           \
                                          rotate_to_float, rotate, add};                           \
  }

KVSCOPE_ROW_LOOPS(Plain, );
#if defined(__x86_64__)
KVSCOPE_ROW_LOOPS(Avx2, __attribute__((target("avx2,fma"))));
KVSCOPE_ROW_LOOPS(Avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))));
#endif

template <typename T>
const RowLoops<T>& choose() {
#if defined(__x86_64__)
  if (has_avx512()) {
    return Avx512<T>::table;
  }
  if (has_avx2()) {
    return Avx2<T>::table;
  }
#endif
  return Plain<T>::table;
}

}  // namespace

template <typename T>
const RowLoops<T>& row_loops() {
  static const RowLoops<T>& chosen = choose<T>();
  return chosen;
}

template const RowLoops<float>& row_loops<float>();
template const RowLoops<Bf16>& row_loops<Bf16>();

}  // namespace kvscope::detail
