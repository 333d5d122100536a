#pragma once

#include <cstdint>

namespace kvscope::detail {

/// A bfloat16 as bits; the loops convert by hand so that compilers vectorise them.
struct Bf16 {
  std::uint16_t bits;
};

/// Loops over rows that LibTorch's operators would do in several passes over memory. Serial:
/// callers split rows over threads. Built for plain x86-64, AVX2 and AVX-512 and chosen once by the
/// machine. T is float or Bf16; arithmetic is float32.
template <typename T>
struct RowLoops {
  /// out[r, c] = x[r, c] / sqrt(mean(x[r]^2) + epsilon) * weight[c]
  void (*rms_norm)(const float* x, const float* weight, float epsilon, std::int64_t rows,
                   std::int64_t columns, T* out);
  /// out[r, c] = silu(gate_up[r, c]) * gate_up[r, columns + c]
  void (*swiglu)(const T* gate_up, std::int64_t rows, std::int64_t columns, T* out);
  /// The same with gelu's tanh form in place of silu.
  void (*geglu)(const T* gate_up, std::int64_t rows, std::int64_t columns, T* out);
  /// x[r, c] = x[r, c] / sqrt(mean(x[r]^2) + epsilon) * weight[c], rows `stride` apart, in place.
  void (*norm_in_place)(T* x, std::int64_t stride, const float* weight, float epsilon,
                        std::int64_t rows, std::int64_t columns);
  /// One head of `rows` rows: x[r] at x + r * stride, dims rotated in half-split pairs by cos and
  /// sin [rows, dims / 2], channels from dims on copied. out is float32 [rows, head_dim].
  void (*rotate_to_float)(const T* x, std::int64_t stride, const float* cosine, const float* sine,
                          std::int64_t rows, std::int64_t dims, std::int64_t head_dim, float* out);
  /// The same into the cache's own type.
  void (*rotate)(const T* x, std::int64_t stride, const float* cosine, const float* sine,
                 std::int64_t rows, std::int64_t dims, std::int64_t head_dim, T* out);
  /// hidden[i] += x[i]
  void (*add)(const T* x, std::int64_t count, float* hidden);
};

template <typename T>
const RowLoops<T>& row_loops();

extern template const RowLoops<float>& row_loops<float>();
extern template const RowLoops<Bf16>& row_loops<Bf16>();

}  // namespace kvscope::detail
