#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "gguf.h"
#include "gguf_model.h"
#include "kvscope/core/error.h"
#include "rope_tables.h"

namespace kvscope {
namespace {

constexpr const char* architectures[] = {"llama",  "qwen2",  "qwen3",   "phi3",
                                         "gemma2", "gemma3", "smollm3", "falcon"};

/// Metadata of one architecture: keys without their prefix, every number checked.
class Metadata {
 public:
  explicit Metadata(const GgufFile& file)
      : file_(file), prefix_(file.text("general.architecture") + ".") {}

  bool has(const std::string& key) const { return file_.metadata().count(prefix_ + key) > 0; }
  int size(const std::string& key, std::int64_t highest) const {
    return checked(key, one_number(key), highest);
  }
  int size(const std::string& key, std::int64_t highest, std::int64_t otherwise) const {
    return has(key) ? size(key, highest) : checked(key, otherwise, highest);
  }
  double positive(const std::string& key, double otherwise) const {
    const double value = file_.real(prefix_ + key, otherwise);
    KVSCOPE_CHECK(
        std::isfinite(value) && value > 0, ErrorCode::corrupt_file,
        fmt::format("metadata key '{}{}' is {}; it must be positive", prefix_, key, value),
        file_.path());
    return value;
  }
  /// 0 where absent or not positive.
  double optional(const std::string& key) const {
    const double value = file_.real(prefix_ + key, 0.0);
    return std::isfinite(value) ? std::max(value, 0.0) : 0.0;
  }
  std::string text(const std::string& key, const std::string& otherwise) const {
    return file_.text(prefix_ + key, otherwise);
  }

 private:
  int checked(const std::string& key, std::int64_t value, std::int64_t highest) const {
    KVSCOPE_CHECK(value >= 1 && value <= highest, ErrorCode::corrupt_file,
                  fmt::format("metadata key '{}{}' is {}; it must lie in 1 to {}", prefix_, key,
                              value, highest),
                  file_.path());
    return static_cast<int>(value);
  }
  /// Head counts may be one number, or an array with one number for each layer; all must agree.
  std::int64_t one_number(const std::string& key) const {
    const auto found = file_.metadata().find(prefix_ + key);
    if (found == file_.metadata().end() ||
        !std::holds_alternative<std::vector<std::int64_t>>(found->second)) {
      return file_.integer(prefix_ + key);
    }
    const std::vector<std::int64_t> values = file_.integers(prefix_ + key);
    KVSCOPE_CHECK(!values.empty(), ErrorCode::corrupt_file,
                  fmt::format("'{}{}' is empty", prefix_, key), file_.path());
    KVSCOPE_CHECK(std::all_of(values.begin(), values.end(),
                              [&](std::int64_t value) { return value == values.front(); }),
                  ErrorCode::unsupported,
                  fmt::format("'{}{}' differs between layers", prefix_, key), file_.path(),
                  "models with one head count for all layers are supported");
    return values.front();
  }

  const GgufFile& file_;
  std::string prefix_;
};

std::vector<double> numbers_of(const TensorStore& store, const std::string& name) {
  const StoredTensor* tensor = store.find(name);
  if (tensor == nullptr) {
    return {};
  }
  KVSCOPE_CHECK(
      tensor->shape.size() == 1 && tensor->elements <= 4096 && tensor->block->elements == 1,
      ErrorCode::corrupt_file, fmt::format("tensor '{}' is no short vector", name), store.path());
  std::vector<float> values(static_cast<std::size_t>(tensor->elements));
  tensor->block->dequantise(tensor->data, tensor->elements, values.data());
  return {values.begin(), values.end()};
}

RopeRequest rope_request(const Metadata& metadata, const TensorStore& store,
                         const ModelConfig& config) {
  RopeRequest request;
  const int head_dim = config.shape.head_dim;
  request.base = metadata.positive("rope.freq_base", 10000.0);
  request.dims = metadata.size("rope.dimension_count", head_dim, head_dim);
  request.context_length = config.context_length;
  request.original_context =
      metadata.size("rope.scaling.original_context_length", std::numeric_limits<int>::max() / 2,
                    config.context_length);
  request.type = metadata.text("rope.scaling.type", "none");
  request.factor = metadata.positive("rope.scaling.factor", 1.0);
  request.divisors = numbers_of(store, "rope_freqs.weight");
  request.short_factors = numbers_of(store, "rope_factors_short.weight");
  request.long_factors = numbers_of(store, "rope_factors_long.weight");
  if (!request.long_factors.empty()) {
    request.type = "longrope";
    request.factor = static_cast<double>(request.context_length) / request.original_context;
    if (metadata.has("rope.scaling.attn_factor")) {
      request.attention_factor = metadata.positive("rope.scaling.attn_factor", 1.0);
    }
  } else if (request.type == "yarn") {
    // The file's factor comes on top of YaRN's own.
    request.attention_factor = metadata.positive("rope.scaling.attn_factor", 1.0) *
                               (request.factor > 1 ? 0.1 * std::log(request.factor) + 1.0 : 1.0);
  }
  return request;
}

void read_gemma(const Metadata& metadata, RopeRequest rope, const std::string& where,
                ModelConfig& config) {
  ModelShape& shape = config.shape;
  config.norm_rounds_last = true;
  config.activation = Activation::gelu_tanh;
  config.embedding_scale = std::sqrt(static_cast<double>(shape.hidden_dim));
  config.output_softcap = metadata.optional("final_logit_softcapping");
  shape.logit_softcap = metadata.optional("attn_logit_softcapping");
  const bool third = config.architecture == "gemma3";
  // The query scale is not in the file: the 27B models divide by hidden_dim / heads instead.
  if (shape.layers == (third ? 62 : 46)) {
    shape.attention_scale =
        1.0 / std::sqrt(static_cast<double>(shape.hidden_dim) / shape.query_heads);
  }
  const int window = metadata.size("attention.sliding_window", 1 << 30, 4096);
  const int pattern = third ? 6 : 2;
  rope.type = "none";
  rope.factor = 1.0;
  rope.base = metadata.positive("rope.freq_base_swa", 10000.0);
  const RopeParameters local = make_rope(rope, where);
  for (int layer = 0; layer < shape.layers; ++layer) {
    const bool global = (layer + 1) % pattern == 0;
    shape.layer_windows.push_back(global ? 0 : window);
    if (third) {
      shape.layer_ropes.push_back(global ? shape.rope : local);
    }
  }
}

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file, const TensorStore& store) {
  ModelConfig config;
  config.architecture = file.text("general.architecture");
  KVSCOPE_CHECK(std::find(std::begin(architectures), std::end(architectures),
                          config.architecture) != std::end(architectures),
                ErrorCode::unsupported,
                fmt::format("architecture '{}' is not supported", config.architecture), file.path(),
                "known: llama, qwen2, qwen3, phi3, gemma2, gemma3, smollm3, falcon");
  const Metadata metadata(file);
  KVSCOPE_CHECK(
      !metadata.has("expert_count"), ErrorCode::unsupported,
      fmt::format("'{}.expert_count': mixtures of experts are not supported", config.architecture),
      file.path());
  ModelShape& shape = config.shape;
  shape.layers = metadata.size("block_count", 4096);
  shape.hidden_dim = metadata.size("embedding_length", 1 << 20);
  config.mlp_dim = metadata.size("feed_forward_length", 1 << 22);
  shape.query_heads = metadata.size("attention.head_count", 4096);
  shape.kv_heads = metadata.size("attention.head_count_kv", 4096, shape.query_heads);
  shape.head_dim =
      metadata.size("attention.key_length", 4096, shape.hidden_dim / shape.query_heads);
  KVSCOPE_CHECK(
      metadata.size("attention.value_length", 4096, shape.head_dim) == shape.head_dim,
      ErrorCode::unsupported,
      fmt::format("'{}.attention.value_length' differs from the key length", config.architecture),
      file.path());
  config.context_length = metadata.size("context_length", std::numeric_limits<int>::max() / 2);
  const bool falcon = config.architecture == "falcon";
  config.norm_epsilon = metadata.positive(
      falcon ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5);
  shape.attention_scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  const RopeRequest rope = rope_request(metadata, store, config);
  shape.rope = make_rope(rope, file.path());
  const StoredTensor* embedding = store.find("token_embd.weight");
  KVSCOPE_CHECK(
      embedding != nullptr && embedding->shape.size() == 2 && embedding->shape[0] <= (1 << 28),
      ErrorCode::corrupt_file, "tensor 'token_embd.weight' is missing or no matrix", file.path());
  shape.vocabulary = static_cast<int>(embedding->shape[0]);
  config.tied_embeddings = store.find("output.weight") == nullptr;
  config.name = file.text("general.name", std::filesystem::path(file.path()).stem().string());
  config.weights_dtype = most_common_type(store);
  if (config.architecture.starts_with("gemma")) {
    read_gemma(metadata, rope, file.path(), config);
  } else if (metadata.has("attention.sliding_window")) {
    shape.layer_windows.assign(static_cast<std::size_t>(shape.layers),
                               metadata.size("attention.sliding_window", 1 << 30));
  }
  if (config.architecture == "smollm3") {
    for (int layer = 0; layer < shape.layers; ++layer) {  // every fourth layer does not rotate
      shape.layer_ropes.push_back((layer + 1) % 4 == 0 ? RopeParameters{} : shape.rope);
    }
  }
  if (falcon) {
    config.norm = NormKind::layer;
    config.gated_mlp = false;
    config.activation = Activation::gelu;
    config.parallel_mlp = true;
  }
  check_shape(shape, file.path());
  return config;
}

}  // namespace kvscope
