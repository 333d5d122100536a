#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "kvscope/evidence/layer_evidence.h"

namespace kvscope::test {

/// A tensor [sizes] of the values, row-major.
inline at::Tensor given(std::vector<std::int64_t> sizes, const std::vector<double>& values) {
  at::Tensor tensor = at::empty(sizes, at::kFloat);
  std::transform(values.begin(), values.end(), tensor.mutable_data_ptr<float>(),
                 [](double value) { return static_cast<float>(value); });
  return tensor;
}

/// One layer as a probe of one chunk shows it, every number given by the test: mid slots only, then
/// the chunk's own, which are empty.
class GivenEvidence : public LayerEvidence {
 public:
  ModelShape model;
  SlotTable table;
  at::Tensor mass;        ///< [query_heads, slots]: window_sum
  at::Tensor key_rows;    ///< [kv_heads, slots, head_dim] pre-RoPE
  at::Tensor value_rows;  ///< [kv_heads, slots, head_dim] sums
  at::Tensor rows;        ///< [query_heads, queries, slots]: attention
  at::Tensor gradients;   ///< [kv_heads, slots, head_dim]
  at::Tensor errors;      ///< [query_heads, queries, head_dim]: output gradient

  GivenEvidence(int query_heads, int kv_heads, int head_dim, const std::vector<double>& counts) {
    model.layers = 1;
    model.query_heads = query_heads;
    model.kv_heads = kv_heads;
    model.head_dim = head_dim;
    table = SlotTable::full(kv_heads, static_cast<int>(counts.size()));
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      for (std::size_t slot = 0; slot < counts.size(); ++slot) {
        table.multiplicity[table.cell(kv_head, static_cast<int>(slot))] =
            static_cast<float>(counts[slot]);
      }
    }
  }

  const ModelShape& shape() const override { return model; }
  Moment moment() const override { return {}; }
  const SlotTable& slots() const override { return table; }
  at::Tensor keys(Frame) const override { return key_rows; }
  at::Tensor values() const override { return value_rows; }
  at::Tensor queries(int) const override { return {}; }
  at::Tensor attention(int) const override { return rows; }
  at::Tensor attention_sum() const override { return mass; }
  at::Tensor decode_attention_sum() const override { return {}; }
  at::Tensor attention_sum_squares() const override { return {}; }
  at::Tensor attention_max() const override { return {}; }
  at::Tensor window_sum(int) const override { return mass; }
  at::Tensor window_sum_squares(int) const override { return {}; }
  at::Tensor last_query() const override { return {}; }
  at::Tensor lse(int) const override { return {}; }
  at::Tensor key_norm() const override { return {}; }
  at::Tensor projected_value_norm(int) const override { return {}; }
  at::Tensor output_factor() const override { return {}; }
  at::Tensor output_weights() const override { return {}; }
  std::uint64_t random_seed() const override { return 0; }
  at::Tensor key_gradient() const override { return gradients; }
  at::Tensor output_gradient() const override { return errors; }
};

}  // namespace kvscope::test
