#include "layer_weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

std::int64_t rows_of(std::initializer_list<WeightReader::Part> parts) {
  return std::accumulate(
      parts.begin(), parts.end(), std::int64_t{0},
      [](std::int64_t rows, const WeightReader::Part& part) { return rows + part.rows; });
}

}  // namespace

/// That the file has `part` in the shape [rows, columns].
void WeightReader::check(int layer, const Part& part, std::int64_t columns) const {
  const std::string where = file_.weight_name(part.weight, layer);
  KVSCOPE_CHECK(file_.has(part.weight, layer), ErrorCode::corrupt_file,
                "the model file lacks a weight", where, "download the model again");
  const auto [stored_rows, stored_columns] = file_.weight_shape(part.weight, layer);
  KVSCOPE_CHECK(stored_rows == part.rows && stored_columns == columns, ErrorCode::corrupt_file,
                fmt::format("shape [{}, {}], expected [{}, {}]", stored_rows, stored_columns,
                            part.rows, columns),
                where, "the file contradicts its own metadata; download it again");
}

void WeightReader::count_nonfinite(int layer, Weight weight, std::span<const float> values) const {
  std::int64_t count = 0;
  constexpr std::size_t block = 65536;  // whose count is a 32-bit number: twice the lanes
  for (std::size_t first = 0; first < values.size(); first += block) {
    std::uint32_t in_block = 0;
    for (const float value : values.subspan(first, std::min(block, values.size() - first))) {
      constexpr std::uint32_t exponent = 0x7F800000;
      in_block += (std::bit_cast<std::uint32_t>(value) & exponent) == exponent ? 1u : 0u;
    }
    count += in_block;
  }
  if (count > 0) {
    const std::lock_guard lock(counting_);
    nonfinite_[{layer, weight}] += count;
  }
}

/// Of blocks that stay as they are stored: dequantised once, a tile at a time.
void WeightReader::count_nonfinite(int layer, Weight weight, const BlockType& type,
                                   std::span<const std::uint8_t> bytes) const {
  const auto block = static_cast<std::size_t>(type.bytes);
  const std::size_t blocks = bytes.size() / block;
  const std::size_t tile =
      std::max<std::size_t>(1, 65536 / static_cast<std::size_t>(type.elements));
  std::vector<float> values(tile * static_cast<std::size_t>(type.elements));
  for (std::size_t first = 0; first < blocks; first += tile) {
    const std::size_t count = std::min(tile, blocks - first);
    type.dequantise(bytes.data() + first * block, static_cast<std::int64_t>(count), values.data());
    count_nonfinite(layer, weight,
                    std::span(values).first(count * static_cast<std::size_t>(type.elements)));
  }
}

std::vector<NonfiniteWeight> WeightReader::nonfinite() const {
  std::vector<NonfiniteWeight> list;
  for (const auto& [place, count] : nonfinite_) {
    list.push_back({file_.weight_name(place.second, place.first), count});
  }
  return list;
}

/// All parts, float32, into `out` on the CPU; `columns` is 1 for vectors.
void WeightReader::read_rows(int layer, std::initializer_list<Part> parts, std::int64_t columns,
                             int threads, at::Tensor& out) const {
  float* to = out.mutable_data_ptr<float>();
  for (const Part& part : parts) {
    check(layer, part, columns);
    const std::int64_t count = part.rows * columns;
    const std::span<float> values{to, static_cast<std::size_t>(count)};
    file_.read(part.weight, layer, values, threads);
    count_nonfinite(layer, part.weight, values);
    to += count;
  }
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
      joined.push_back({type, 0, nullptr});
    }
    joined.back().rows += part.rows;
  }
  auto part = parts.begin();
  for (WeightMatrix::Blocks& blocks : joined) {
    const auto row_bytes =
        static_cast<std::size_t>(columns / blocks.type->elements * blocks.type->bytes);
    const std::shared_ptr<std::uint8_t> bytes =
        memory_.take(static_cast<std::size_t>(blocks.rows) * row_bytes);
    std::uint8_t* to = bytes.get();
    for (std::int64_t rows = 0; rows < blocks.rows; rows += (part++)->rows) {
      const std::size_t size = static_cast<std::size_t>(part->rows) * row_bytes;
      file_.read_blocks(part->weight, layer, {to, size});
      count_nonfinite(layer, part->weight, *blocks.type, {to, size});
      to += size;
    }
    blocks.bytes = bytes;
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
  const std::int64_t sizes[] = {rows_of(parts), columns};
  if (!device_.is_cpu()) {
    at::Tensor values = at::empty(sizes, at::kFloat);
    read_rows(layer, parts, columns, threads, values);
    return WeightMatrix(values.to(device_, dtype_));
  }
  at::Tensor matrix = memory_.tensor(sizes, dtype_);
  if (dtype_ == at::kFloat) {
    read_rows(layer, parts, columns, threads, matrix);
  } else {
    // Memory of its own goes back to the system at once; the allocator's would be kept per thread.
    at::Tensor values = WeightMemory().tensor(sizes, at::kFloat);
    read_rows(layer, parts, columns, threads, values);
    matrix.copy_(values);
  }
  return WeightMatrix(matrix);
}

at::Tensor WeightReader::vector(int layer, Weight weight, std::int64_t channels,
                                bool optional) const {
  if (optional && !file_.has(weight, layer)) {
    return {};
  }
  at::Tensor values = at::empty({channels}, at::kFloat);
  read_rows(layer, {{weight, channels}}, 1, 1, values);
  return values.to(device_);
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
