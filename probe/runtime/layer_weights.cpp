#include "layer_weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>

#include "kvscope/core/error.h"

namespace kvscope::detail {

/// That the file has `part` in the shape [rows, columns].
void WeightReader::check(int layer, const Part& part, std::int64_t columns) const {
  const std::string where =
      fmt::format("weight {} of layer {}", static_cast<int>(part.weight), layer);
  KVSCOPE_CHECK(file_.has(part.weight, layer), ErrorCode::corrupt_file,
                "the model file lacks a weight", where, "download the model again");
  const auto [stored_rows, stored_columns] = file_.weight_shape(part.weight, layer);
  KVSCOPE_CHECK(stored_rows == part.rows && stored_columns == columns, ErrorCode::corrupt_file,
                fmt::format("shape [{}, {}], expected [{}, {}]", stored_rows, stored_columns,
                            part.rows, columns),
                where, "the file contradicts its own metadata; download it again");
}

/// [sum of rows, columns] float32 on the CPU, or a vector where `columns` is 0.
at::Tensor WeightReader::rows(int layer, std::initializer_list<Part> parts, std::int64_t columns,
                              int threads) const {
  const std::int64_t wide = std::max<std::int64_t>(columns, 1);
  std::int64_t rows = 0;
  for (const Part& part : parts) {
    check(layer, part, wide);
    rows += part.rows;
  }
  at::Tensor matrix =
      columns == 0 ? at::empty({rows}, at::kFloat) : at::empty({rows, columns}, at::kFloat);
  float* out = matrix.mutable_data_ptr<float>();
  for (const Part& part : parts) {
    const std::int64_t count = part.rows * wide;
    file_.read(part.weight, layer, {out, static_cast<std::size_t>(count)}, threads);
    out += count;
  }
  return matrix;
}

/// Undefined if a part's values are more than its stored blocks. Neighbours of one type are joined.
WeightMatrix WeightReader::kept(int layer, std::initializer_list<Part> parts,
                                std::int64_t columns) const {
  std::vector<WeightMatrix::Blocks> joined;
  for (const Part& part : parts) {
    check(layer, part, columns);
    const BlockType* type = file_.blocks(part.weight, layer);
    if (type == nullptr) {
      return {};
    }
    if (joined.empty() || joined.back().type != type) {
      joined.push_back({type, 0, {}});
    }
    joined.back().rows += part.rows;
  }
  auto blocks = joined.begin();
  std::size_t before = 0;
  for (const Part& part : parts) {
    if (file_.blocks(part.weight, layer) != blocks->type) {
      ++blocks;
      before = 0;
    }
    const auto row_bytes =
        static_cast<std::size_t>(columns / blocks->type->elements * blocks->type->bytes);
    if (blocks->bytes.empty()) {
      blocks->bytes.resize(static_cast<std::size_t>(blocks->rows) * row_bytes);
    }
    const std::size_t size = static_cast<std::size_t>(part.rows) * row_bytes;
    file_.read_blocks(part.weight, layer, std::span(blocks->bytes).subspan(before, size));
    before += size;
  }
  return {std::move(joined), columns, dtype_};
}

WeightMatrix WeightReader::matrix(int layer, std::initializer_list<Part> parts,
                                  std::int64_t columns, int threads) const {
  if (keep_) {
    if (WeightMatrix matrix = kept(layer, parts, columns); matrix.defined()) {
      return matrix;
    }
  }
  return WeightMatrix(rows(layer, parts, columns, threads).to(device_, dtype_));
}

at::Tensor WeightReader::vector(int layer, Weight weight, std::int64_t channels,
                                bool optional) const {
  if (optional && !file_.has(weight, layer)) {
    return {};
  }
  return rows(layer, {{weight, channels}}, 0, 1).to(device_);
}

at::Tensor WeightReader::bias(int layer, std::initializer_list<Part> parts,
                              at::ScalarType dtype) const {
  std::int64_t total = 0;
  bool any = false;
  for (const Part& part : parts) {
    total += part.rows;
    any = any || file_.has(part.weight, layer);
  }
  if (!any) {
    return {};
  }
  at::Tensor joined = at::zeros({total}, at::TensorOptions(at::kFloat).device(device_));
  std::int64_t first = 0;
  for (const Part& part : parts) {
    if (const at::Tensor values = vector(layer, part.weight, part.rows, true); values.defined()) {
      joined.narrow(0, first, part.rows).copy_(values);
    }
    first += part.rows;
  }
  return joined.to(dtype);
}

LayerWeights WeightReader::layer(int layer) const {
  const ModelConfig& config = file_.config();
  const ModelShape& s = config.shape;
  const std::int64_t hidden = s.hidden_dim;
  const std::int64_t queries = static_cast<std::int64_t>(s.query_heads) * s.head_dim;
  const std::int64_t keys = static_cast<std::int64_t>(s.kv_heads) * s.head_dim;
  const std::int64_t mlp = config.mlp_dim;
  const bool shared_norm = config.parallel_mlp && !file_.has(Weight::mlp_norm, layer);

  LayerWeights w;
  w.attention_norm = {vector(layer, Weight::attention_norm, hidden),
                      vector(layer, Weight::attention_norm_bias, hidden, true)};
  w.qkv = matrix(layer, {{Weight::wq, queries}, {Weight::wk, keys}, {Weight::wv, keys}}, hidden);
  w.qkv_bias = bias(layer, {{Weight::bq, queries}, {Weight::bk, keys}, {Weight::bv, keys}}, dtype_);
  w.query_norm = vector(layer, Weight::q_norm, s.head_dim, true);
  w.key_norm = vector(layer, Weight::k_norm, s.head_dim, true);
  w.output = matrix(layer, {{Weight::wo, hidden}}, queries);
  w.output_bias = vector(layer, Weight::bo, hidden, true);
  w.post_attention_norm = {vector(layer, Weight::post_attention_norm, hidden, true), {}};
  w.mlp_norm = shared_norm ? w.attention_norm
                           : NormWeights{vector(layer, Weight::mlp_norm, hidden),
                                         vector(layer, Weight::mlp_norm_bias, hidden, true)};
  if (config.gated_mlp) {
    w.gate_up = matrix(layer, {{Weight::mlp_gate, mlp}, {Weight::mlp_up, mlp}}, hidden);
    w.gate_up_bias =
        bias(layer, {{Weight::mlp_gate_bias, mlp}, {Weight::mlp_up_bias, mlp}}, dtype_);
  } else {
    w.gate_up = matrix(layer, {{Weight::mlp_up, mlp}}, hidden);
    w.gate_up_bias = bias(layer, {{Weight::mlp_up_bias, mlp}}, dtype_);
  }
  w.down = matrix(layer, {{Weight::mlp_down, hidden}}, mlp);
  w.down_bias = vector(layer, Weight::mlp_down_bias, hidden, true);
  w.post_mlp_norm = {vector(layer, Weight::post_mlp_norm, hidden, true), {}};
  return w;
}

}  // namespace kvscope::detail
