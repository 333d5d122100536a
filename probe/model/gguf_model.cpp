#include "gguf_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <thread>

#include "block_types.h"
#include "gguf.h"
#include "gguf_tokenizer.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr Weight layer_weights[] = {
    Weight::attention_norm, Weight::wq,       Weight::wk,     Weight::wv,      Weight::wo,
    Weight::mlp_norm,       Weight::mlp_gate, Weight::mlp_up, Weight::mlp_down};
constexpr Weight model_weights[] = {Weight::token_embedding, Weight::output_norm, Weight::output};

using Shape = std::pair<std::int64_t, std::int64_t>;

Shape expected_shape(Weight weight, const ModelConfig& config) {
  const ModelShape& shape = config.shape;
  const std::int64_t hidden = shape.hidden_dim;
  const std::int64_t query_rows = std::int64_t{shape.query_heads} * shape.head_dim;
  const std::int64_t kv_rows = std::int64_t{shape.kv_heads} * shape.head_dim;
  switch (weight) {
    case Weight::token_embedding:
    case Weight::output:
      return {shape.vocabulary, hidden};
    case Weight::output_norm:
    case Weight::attention_norm:
    case Weight::mlp_norm:
      return {hidden, 1};
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
    case Weight::bo:
      return {hidden, 1};
    case Weight::q_norm:
    case Weight::k_norm:
      return {shape.head_dim, 1};
    case Weight::mlp_gate_bias:
    case Weight::mlp_up_bias:
      return {config.mlp_dim, 1};
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

class GgufModel final : public ModelFile {
 public:
  explicit GgufModel(const std::string& path) : file_(path), config_(read_gguf_config(file_)) {
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
    return block_type(require(weight, layer).type)->name;
  }
  void read(Weight weight, int layer, std::span<float> out, int threads) const override;
  std::shared_ptr<const Tokenizer> tokenizer() const override {
    return read_gguf_tokenizer(file_, config_.shape.vocabulary);
  }
  std::vector<std::string> describe() const override;

 private:
  const GgufTensor* find(Weight weight, int layer) const {
    const bool tied = weight == Weight::output && config_.tied_embeddings;
    return file_.find(gguf_name(tied ? Weight::token_embedding : weight, layer));
  }
  const GgufTensor& require(Weight weight, int layer) const {
    const GgufTensor* tensor = find(weight, layer);
    KVSCOPE_CHECK(tensor != nullptr, ErrorCode::missing_data,
                  fmt::format("tensor '{}' is missing", gguf_name(weight, layer)), file_.path());
    return *tensor;
  }
  void check_tensors() const;
  void check_weight(Weight weight, int layer) const;

  GgufFile file_;
  ModelConfig config_;
};

void GgufModel::check_weight(Weight weight, int layer) const {
  const GgufTensor* tensor = find(weight, layer);
  KVSCOPE_CHECK(tensor != nullptr, ErrorCode::corrupt_file,
                fmt::format("tensor '{}' is missing", gguf_name(weight, layer)), file_.path(),
                "download the file again");
  const Shape expected = expected_shape(weight, config_);
  const Shape found = {tensor->shape[0], tensor->shape.size() > 1 ? tensor->shape[1] : 1};
  KVSCOPE_CHECK(
      tensor->shape.size() <= 2 && found == expected, ErrorCode::corrupt_file,
      fmt::format("tensor '{}' has shape [{}], the metadata asks for [{}, {}]", tensor->name,
                  fmt::join(tensor->shape, ", "), expected.first, expected.second),
      file_.path());
}

void GgufModel::check_tensors() const {
  std::set<std::string> known = {"rope_freqs.weight"};
  for (const Weight weight : model_weights) {
    check_weight(weight, -1);
    known.insert(gguf_name(weight, -1));
  }
  for (int layer = 0; layer < config_.shape.layers; ++layer) {
    for (const Weight weight : layer_weights) {
      check_weight(weight, layer);
      known.insert(gguf_name(weight, layer));
    }
  }
  for (const GgufTensor& tensor : file_.tensors()) {
    KVSCOPE_CHECK(known.count(tensor.name) > 0, ErrorCode::unsupported,
                  fmt::format("tensor '{}' has no place in architecture '{}' as supported here",
                              tensor.name, config_.architecture),
                  file_.path(), "biases, experts and extra norms of this family are not supported");
  }
}

std::string GgufModel::hash() const {
  std::uint64_t state = 14695981039346656037u;  // FNV-1a, 64 bits
  const auto mix = [&state](const void* data, std::size_t bytes) {
    for (std::size_t byte = 0; byte < bytes; ++byte) {
      state = (state ^ static_cast<const std::uint8_t*>(data)[byte]) * 1099511628211u;
    }
  };
  file_.check_size();
  for (const GgufTensor& tensor : file_.tensors()) {
    mix(tensor.name.data(), tensor.name.size());
    mix(tensor.shape.data(), tensor.shape.size() * sizeof(std::int64_t));
    mix(&tensor.type, sizeof tensor.type);
    const BlockType* block = block_type(tensor.type);
    const std::size_t bytes = static_cast<std::size_t>(tensor.elements / block->elements) *
                              static_cast<std::size_t>(block->bytes);
    constexpr std::size_t piece = 64;
    const std::size_t stride = std::max<std::size_t>(piece, bytes / 16);
    for (std::size_t at = 0; at < bytes; at += stride) {
      mix(file_.data(tensor) + at, std::min(piece, bytes - at));
    }
  }
  return fmt::format("{:016x}", state);
}

void GgufModel::read(Weight weight, int layer, std::span<float> out, int threads) const {
  const GgufTensor& tensor = require(weight, layer);
  const auto [rows, columns] = expected_shape(weight, config_);
  KVSCOPE_CHECK(static_cast<std::int64_t>(out.size()) == rows * columns, ErrorCode::usage,
                fmt::format("{} floats for a weight of {} x {}", out.size(), rows, columns),
                tensor.name);
  file_.check_size();
  const BlockType* block = block_type(tensor.type);
  const std::uint8_t* source = file_.data(tensor);
  if (columns == 1) {
    block->dequantise(source, tensor.elements / block->elements, out.data());
    return;
  }
  // Rows of Q and K are stored for neighbouring rotation pairs: row 2i + s of a head is row (s, i).
  const bool permuted = weight == Weight::wq || weight == Weight::wk;
  const std::int64_t head_dim = config_.shape.head_dim;
  const std::int64_t blocks = columns / block->elements;
  const auto convert = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t within = row % head_dim;
      const std::int64_t half = head_dim / 2;
      const std::int64_t stored =
          permuted ? row - within + 2 * (within % half) + within / half : row;
      block->dequantise(source + stored * blocks * block->bytes, blocks,
                        out.data() + row * columns);
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
}

std::vector<std::string> GgufModel::describe() const {
  struct Show {
    std::string operator()(std::int64_t value) const { return fmt::format("{}", value); }
    std::string operator()(double value) const { return fmt::format("{:g}", value); }
    std::string operator()(bool value) const { return value ? "true" : "false"; }
    std::string operator()(const std::string& value) const {
      return value.size() <= 60 ? value : value.substr(0, 57) + "...";
    }
    std::string operator()(const std::vector<std::int64_t>& v) const {
      return fmt::format("[{} integers]", v.size());
    }
    std::string operator()(const std::vector<double>& v) const {
      return fmt::format("[{} numbers]", v.size());
    }
    std::string operator()(const std::vector<std::string>& v) const {
      return fmt::format("[{} texts]", v.size());
    }
  };
  std::vector<std::string> lines;
  for (const auto& [key, value] : file_.metadata()) {
    std::string shown = std::visit(Show{}, value);
    std::replace(shown.begin(), shown.end(), '\n', ' ');
    lines.push_back(fmt::format("{:<44} {}", key, shown));
  }
  for (const GgufTensor& tensor : file_.tensors()) {
    lines.push_back(fmt::format("{:<44} {:<6} [{}]", tensor.name, block_type(tensor.type)->name,
                                fmt::join(tensor.shape, ", ")));
  }
  return lines;
}

}  // namespace

std::unique_ptr<ModelFile> open_gguf_model(const std::string& path) {
  return std::make_unique<GgufModel>(path);
}

}  // namespace kvscope
