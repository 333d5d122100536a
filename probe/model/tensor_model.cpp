#include "tensor_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using Shape = std::pair<std::int64_t, std::int64_t>;

constexpr Weight model_weights[] = {Weight::token_embedding, Weight::output_norm, Weight::output,
                                    Weight::output_norm_bias};
constexpr Weight layer_weights[] = {Weight::attention_norm,
                                    Weight::wq,
                                    Weight::wk,
                                    Weight::wv,
                                    Weight::wo,
                                    Weight::mlp_norm,
                                    Weight::mlp_gate,
                                    Weight::mlp_up,
                                    Weight::mlp_down,
                                    Weight::q_norm,
                                    Weight::k_norm,
                                    Weight::bq,
                                    Weight::bk,
                                    Weight::bv,
                                    Weight::bo,
                                    Weight::mlp_gate_bias,
                                    Weight::mlp_up_bias,
                                    Weight::mlp_down_bias,
                                    Weight::post_attention_norm,
                                    Weight::post_mlp_norm,
                                    Weight::attention_norm_bias,
                                    Weight::mlp_norm_bias};

bool is_rms_norm(Weight weight) {
  return weight == Weight::output_norm || weight == Weight::attention_norm ||
         weight == Weight::mlp_norm || weight == Weight::q_norm || weight == Weight::k_norm ||
         weight == Weight::post_attention_norm || weight == Weight::post_mlp_norm;
}

bool is_rotated(Weight weight) {
  return weight == Weight::wq || weight == Weight::wk || weight == Weight::bq ||
         weight == Weight::bk;
}

bool is_required(Weight weight, const ModelConfig& config) {
  switch (weight) {
    case Weight::mlp_gate:
      return config.gated_mlp;
    case Weight::mlp_norm:
      return !config.parallel_mlp;
    case Weight::attention_norm_bias:
    case Weight::output_norm_bias:
      return config.norm == NormKind::layer;
    default:
      return weight <= Weight::mlp_down;
  }
}

class TensorModel final : public ModelFile {
 public:
  TensorModel(std::shared_ptr<const TensorStore> store, ModelConfig config, TensorLayout layout,
              TokenizerReader tokenizer)
      : store_(std::move(store)),
        config_(std::move(config)),
        layout_(std::move(layout)),
        tokenizer_(std::move(tokenizer)) {
    check_tensors();
  }

  const ModelConfig& config() const override { return config_; }
  std::string hash() const override;
  bool has(Weight weight, int layer) const override { return find(weight, layer) != nullptr; }
  Shape weight_shape(Weight weight, int layer) const override {
    require(weight, layer);
    return expected_shape(weight, config_);
  }
  std::string weight_dtype(Weight weight, int layer) const override {
    return require(weight, layer).block->name;
  }
  std::string weight_name(Weight weight, int layer) const override {
    return place(weight, layer).tensor;
  }
  void read(Weight weight, int layer, std::span<float> out, int threads) const override;
  const BlockType* blocks(Weight weight, int layer) const override;
  void release() const override { store_->release(); }
  void read_blocks(Weight weight, int layer, std::span<std::uint8_t> out) const override;
  std::shared_ptr<const Tokenizer> tokenizer() const override { return tokenizer_(); }
  std::vector<std::string> describe() const override;

 private:
  Place place(Weight weight, int layer) const {
    const bool tied = weight == Weight::output && config_.tied_embeddings;
    return layout_.place(tied ? Weight::token_embedding : weight, layer);
  }
  const StoredTensor* find(Weight weight, int layer) const {
    const bool of_layer = weight != Weight::token_embedding && weight != Weight::output_norm &&
                          weight != Weight::output && weight != Weight::output_norm_bias;
    const Place where =
        of_layer && (layer < 0 || layer >= config_.shape.layers) ? Place{} : place(weight, layer);
    return where.tensor.empty() ? nullptr : store_->find(where.tensor);
  }
  const StoredTensor& require(Weight weight, int layer) const {
    const StoredTensor* tensor = find(weight, layer);
    KVSCOPE_CHECK(tensor != nullptr, ErrorCode::missing_data,
                  fmt::format("tensor '{}' is missing", layout_.place(weight, layer).tensor),
                  store_->path());
    return *tensor;
  }
  /// Where row `row` of a weight lies in its tensor. Rows of Q and K may be stored for neighbouring
  /// rotation pairs: row 2i + s of a head is row (s, i) of the half-split order.
  std::int64_t stored_row(Weight weight, const Place& where, std::int64_t row) const {
    if (!layout_.neighbouring_pairs || !is_rotated(weight)) {
      return where.first_row + row;
    }
    const std::int64_t within = row % config_.shape.head_dim;
    const std::int64_t half = config_.shape.head_dim / 2;
    return where.first_row + row - within + 2 * (within % half) + within / half;
  }
  /// The scales of a stored tensor; nullptr if it has none.
  const StoredTensor* scales_of(const StoredTensor& tensor) const {
    return layout_.scale_rows > 0 ? store_->find(tensor.name + "_scale_inv") : nullptr;
  }
  void check_tensors() const;
  void check_scales(const StoredTensor& scales, std::int64_t rows, std::int64_t columns) const;
  void check_weight(Weight weight, int layer, std::set<std::string>& known) const;

  std::shared_ptr<const TensorStore> store_;
  ModelConfig config_;
  TensorLayout layout_;
  TokenizerReader tokenizer_;
};

void TensorModel::check_weight(Weight weight, int layer, std::set<std::string>& known) const {
  const Place where = place(weight, layer);
  const StoredTensor* tensor = find(weight, layer);
  if (tensor == nullptr) {
    KVSCOPE_CHECK(!is_required(weight, config_), ErrorCode::corrupt_file,
                  fmt::format("tensor '{}' is missing", where.tensor), store_->path(),
                  "download the file again");
    return;
  }
  known.insert(where.tensor);
  KVSCOPE_CHECK(!tensor->block->integers, ErrorCode::unsupported,
                fmt::format("tensor '{}' holds integers ({}), not weights", tensor->name,
                            tensor->block->name),
                store_->path());
  const auto [rows, columns] = expected_shape(weight, config_);
  const Shape expected = {where.rows == 0 ? rows : where.rows, columns};
  const Shape found = {tensor->shape.empty() ? 0 : tensor->shape[0],
                       tensor->shape.size() > 1 ? tensor->shape[1] : 1};
  KVSCOPE_CHECK(
      tensor->shape.size() <= 2 && found == expected, ErrorCode::corrupt_file,
      fmt::format("tensor '{}' has shape [{}], the metadata asks for [{}, {}]", tensor->name,
                  fmt::join(tensor->shape, ", "), expected.first, expected.second),
      store_->path());
  if (const StoredTensor* scales = scales_of(*tensor)) {
    check_scales(*scales, found.first, found.second);
    known.insert(scales->name);
  } else {
    KVSCOPE_CHECK(
        layout_.scale_rows == 0 || !std::string_view(tensor->block->name).starts_with("F8"),
        ErrorCode::corrupt_file, fmt::format("tensor '{}_scale_inv' is missing", tensor->name),
        store_->path(), "download the weights again");
  }
}

void TensorModel::check_scales(const StoredTensor& scales, std::int64_t rows,
                               std::int64_t columns) const {
  const std::int64_t down = (rows + layout_.scale_rows - 1) / layout_.scale_rows;
  const std::int64_t across = (columns + layout_.scale_columns - 1) / layout_.scale_columns;
  KVSCOPE_CHECK(scales.shape == std::vector<std::int64_t>({down, across}) &&
                    scales.block->elements == 1 && !scales.block->integers,
                ErrorCode::corrupt_file,
                fmt::format("tensor '{}' has shape [{}], blocks of {} x {} need [{}, {}]",
                            scales.name, fmt::join(scales.shape, ", "), layout_.scale_rows,
                            layout_.scale_columns, down, across),
                store_->path());
}

void TensorModel::check_tensors() const {
  std::set<std::string> known;
  for (const Weight weight : model_weights) {
    check_weight(weight, -1, known);
  }
  for (int layer = 0; layer < config_.shape.layers; ++layer) {
    for (const Weight weight : layer_weights) {
      check_weight(weight, layer, known);
    }
    KVSCOPE_CHECK(has(Weight::q_norm, layer) == has(Weight::k_norm, layer), ErrorCode::corrupt_file,
                  fmt::format("layer {} normalises only one of queries and keys", layer),
                  store_->path());
  }
  for (const StoredTensor& tensor : store_->tensors()) {
    KVSCOPE_CHECK(known.count(tensor.name) > 0 || layout_.ignorable(tensor.name),
                  ErrorCode::unsupported,
                  fmt::format("tensor '{}' has no place in architecture '{}' as supported here",
                              tensor.name, config_.architecture),
                  store_->path(), "experts and parts beyond the text model are not supported");
  }
}

std::string TensorModel::hash() const {
  std::uint64_t state = 14695981039346656037u;  // FNV-1a, 64 bits
  const auto mix = [&state](const void* data, std::size_t bytes) {
    for (std::size_t byte = 0; byte < bytes; ++byte) {
      state = (state ^ static_cast<const std::uint8_t*>(data)[byte]) * 1099511628211u;
    }
  };
  store_->check_size();
  for (const StoredTensor& tensor : store_->tensors()) {
    mix(tensor.name.data(), tensor.name.size());
    mix(tensor.shape.data(), tensor.shape.size() * sizeof(std::int64_t));
    mix(&tensor.block->id, sizeof tensor.block->id);
    const std::size_t bytes = static_cast<std::size_t>(tensor.elements / tensor.block->elements) *
                              static_cast<std::size_t>(tensor.block->bytes);
    constexpr std::size_t piece = 64;
    const std::size_t stride = std::max<std::size_t>(piece, bytes / 16);
    for (std::size_t at = 0; at < bytes; at += stride) {
      mix(tensor.data + at, std::min(piece, bytes - at));
    }
  }
  return fmt::format("{:016x}", state);
}

void TensorModel::read(Weight weight, int layer, std::span<float> out, int threads) const {
  const StoredTensor& tensor = require(weight, layer);
  const Place where = place(weight, layer);
  const Shape shape = expected_shape(weight, config_);
  const std::int64_t rows = shape.first;
  const std::int64_t columns = shape.second;
  KVSCOPE_CHECK(static_cast<std::int64_t>(out.size()) == rows * columns, ErrorCode::usage,
                fmt::format("{} floats for a weight of {} x {}", out.size(), rows, columns),
                tensor.name);
  store_->check_size();
  const BlockType* block = tensor.block;
  if (columns == 1 && block->elements > 1) {  // a quantised vector: blocks run along the rows
    block->dequantise(tensor.data, rows / block->elements, out.data());
    return;
  }
  const std::int64_t blocks = columns / block->elements;
  std::vector<float> scales;
  if (const StoredTensor* stored = scales_of(tensor)) {
    scales.resize(static_cast<std::size_t>(stored->elements));
    stored->block->dequantise(stored->data, stored->elements, scales.data());
  }
  const auto scale_row = [&](std::int64_t stored, float* row) {
    const std::int64_t across = (columns + layout_.scale_columns - 1) / layout_.scale_columns;
    const float* factors = scales.data() + stored / layout_.scale_rows * across;
    for (std::int64_t column = 0; column < columns; ++column) {
      row[column] *= factors[column / layout_.scale_columns];
    }
  };
  const auto convert = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t stored = stored_row(weight, where, row);
      block->dequantise(tensor.data + stored * blocks * block->bytes, blocks,
                        out.data() + row * columns);
      if (!scales.empty()) {
        scale_row(stored, out.data() + row * columns);
      }
    }
  };
  const std::int64_t workers =
      std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(1, rows / 64));
  std::vector<std::thread> pool;
  for (std::int64_t worker = 1; worker < workers; ++worker) {
    pool.emplace_back(convert, rows * worker / workers, rows * (worker + 1) / workers);
  }
  convert(0, rows / workers);
  for (std::thread& thread : pool) {
    thread.join();
  }
  if (layout_.norm_offset != 0 && is_rms_norm(weight)) {
    for (float& value : out) {
      value += layout_.norm_offset;
    }
  }
}

const BlockType* TensorModel::blocks(Weight weight, int layer) const {
  const StoredTensor& tensor = require(weight, layer);
  const bool shifted = layout_.norm_offset != 0 && is_rms_norm(weight);
  const bool vector = expected_shape(weight, config_).second == 1;
  return scales_of(tensor) != nullptr || shifted || vector ? nullptr : tensor.block;
}

void TensorModel::read_blocks(Weight weight, int layer, std::span<std::uint8_t> out) const {
  const BlockType* block = blocks(weight, layer);
  const Place where = place(weight, layer);
  const auto [rows, columns] = expected_shape(weight, config_);
  KVSCOPE_CHECK(block != nullptr, ErrorCode::usage, "this weight is not its stored blocks",
                where.tensor, "use read");
  const std::int64_t row_bytes = columns / block->elements * block->bytes;
  KVSCOPE_CHECK(static_cast<std::int64_t>(out.size()) == rows * row_bytes, ErrorCode::usage,
                fmt::format("{} bytes for {} rows of {}", out.size(), rows, row_bytes),
                where.tensor, "pass as many as `blocks` and `weight_shape` say");
  store_->check_size();
  const std::uint8_t* data = require(weight, layer).data;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::copy_n(data + stored_row(weight, where, row) * row_bytes, row_bytes,
                out.data() + row * row_bytes);
  }
}

std::vector<std::string> TensorModel::describe() const {
  std::vector<std::string> lines = store_->describe_metadata();
  for (const StoredTensor& tensor : store_->tensors()) {
    lines.push_back(fmt::format("{:<44} {:<6} [{}]", tensor.name, tensor.block->name,
                                fmt::join(tensor.shape, ", ")));
  }
  return lines;
}

}  // namespace

Shape expected_shape(Weight weight, const ModelConfig& config) {
  const ModelShape& shape = config.shape;
  const std::int64_t hidden = shape.hidden_dim;
  const std::int64_t query_rows = std::int64_t{shape.query_heads} * shape.head_dim;
  const std::int64_t kv_rows = std::int64_t{shape.kv_heads} * shape.head_dim;
  switch (weight) {
    case Weight::token_embedding:
    case Weight::output:
      return {shape.vocabulary, hidden};
    case Weight::wq:
      return {query_rows, hidden};
    case Weight::wk:
    case Weight::wv:
      return {kv_rows, hidden};
    case Weight::wo:
      return {hidden, query_rows};
    case Weight::mlp_gate:
    case Weight::mlp_up:
      return {config.mlp_dim, hidden};
    case Weight::mlp_down:
      return {hidden, config.mlp_dim};
    case Weight::bq:
      return {query_rows, 1};
    case Weight::bk:
    case Weight::bv:
      return {kv_rows, 1};
    case Weight::q_norm:
    case Weight::k_norm:
      return {shape.head_dim, 1};
    case Weight::mlp_gate_bias:
    case Weight::mlp_up_bias:
      return {config.mlp_dim, 1};
    case Weight::output_norm:
    case Weight::attention_norm:
    case Weight::mlp_norm:
    case Weight::bo:
    case Weight::mlp_down_bias:
    case Weight::post_attention_norm:
    case Weight::post_mlp_norm:
    case Weight::attention_norm_bias:
    case Weight::mlp_norm_bias:
    case Weight::output_norm_bias:
      return {hidden, 1};
  }
  return {};
}

std::string most_common_type(const TensorStore& store) {
  std::map<std::string, int> count;
  std::string best = "F32";
  for (const StoredTensor& tensor : store.tensors()) {
    const std::string name = tensor.block->name;
    const bool of_layer = tensor.name.find("blk.") != std::string::npos ||
                          tensor.name.find(".layers.") != std::string::npos ||
                          tensor.name.find(".h.") != std::string::npos;
    if (tensor.shape.size() == 2 && of_layer && ++count[name] > count[best]) {
      best = name;
    }
  }
  return best;
}

std::unique_ptr<ModelFile> make_tensor_model(std::shared_ptr<const TensorStore> store,
                                             ModelConfig config, TensorLayout layout,
                                             TokenizerReader tokenizer) {
  return std::make_unique<TensorModel>(std::move(store), std::move(config), std::move(layout),
                                       std::move(tokenizer));
}

}  // namespace kvscope
