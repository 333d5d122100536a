#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros_like.h>

#include <cstdint>
#include <cstring>
#include <limits>

#include "kvscope/kernels/attention_stats.h"

namespace kvscope::testing {

/// Our own generator: the standard distributions differ between libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 2654435769u + 1) {}
  /// About normal, variance 1.
  float normal() {
    float sum = -6;
    for (int i = 0; i < 12; ++i) {
      sum += uniform();
    }
    return sum;
  }
  float uniform() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<float>(state_ >> 40) * (1.0f / 16777216.0f);
  }
  at::Tensor tensor(at::IntArrayRef sizes) {
    at::Tensor out = at::empty(sizes, at::kFloat);
    float* cell = out.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < out.numel(); ++i) {
      cell[i] = normal();
    }
    return out;
  }

 private:
  std::uint64_t state_;
};

/// The whole map in float64: what every statistic is checked against.
struct Map {
  at::Tensor p;        ///< [query_heads, rows, tokens]
  at::Tensor lse;      ///< [query_heads, rows]
  at::Tensor entropy;  ///< [query_heads, rows]
};

inline Map explicit_map(const at::Tensor& queries, const at::Tensor& keys,
                        const AttentionStatsOptions& options) {
  const at::Tensor k =
      at::repeat_interleave(keys.to(at::kDouble), queries.size(0) / keys.size(0), 0);
  at::Tensor s = at::matmul(queries.to(at::kDouble), k.transpose(-1, -2)) * options.scale;
  if (options.softcap > 0) {
    s = at::tanh(s / options.softcap) * options.softcap;
  }
  const at::Tensor position =
      at::arange(options.first_query, options.first_query + queries.size(1), at::kLong)
          .unsqueeze(-1);
  const at::Tensor key = at::arange(0, keys.size(1), at::kLong);
  at::Tensor seen = key <= position;
  if (options.window > 0) {
    seen = seen & (position - key < options.window);
  }
  s = s.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity());
  Map map;
  map.lse = at::logsumexp(s, -1);
  map.p = (s - map.lse.unsqueeze(-1)).exp().masked_fill(seen.logical_not(), 0).nan_to_num(0.0);
  map.entropy = -(map.p * (s - map.lse.unsqueeze(-1)).masked_fill(seen.logical_not(), 0))
                     .nan_to_num(0.0)
                     .sum(-1);
  return map;
}

/// Largest |a - b| / (floor + |b|).
inline double worst(const at::Tensor& a, const at::Tensor& b, double floor) {
  if (a.numel() == 0) {
    return 0;
  }
  const at::Tensor x = a.to(at::kDouble);
  const at::Tensor y = b.to(at::kDouble);
  return ((x - y).abs() / (y.abs() + floor)).max().item<double>();
}

inline bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous();
  const at::Tensor y = b.contiguous();
  return x.sizes() == y.sizes() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace kvscope::testing
