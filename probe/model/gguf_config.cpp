#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "block_types.h"
#include "gguf.h"
#include "gguf_model.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr const char* supported_architecture = "llama";

int size_of(const GgufFile& file, const std::string& key, std::int64_t value,
            std::int64_t highest) {
  KVSCOPE_CHECK(value >= 1 && value <= highest, ErrorCode::corrupt_file,
                fmt::format("metadata key '{}' is {}; it must lie in 1 to {}", key, value, highest),
                file.path());
  return static_cast<int>(value);
}

/// Head counts may be one number, or an array with one number for each layer; all must agree.
std::int64_t one_number(const GgufFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end() ||
      !std::holds_alternative<std::vector<std::int64_t>>(found->second)) {
    return file.integer(key);
  }
  const std::vector<std::int64_t> values = file.integers(key);
  for (const std::int64_t value : values) {
    KVSCOPE_CHECK(value == values.front(), ErrorCode::unsupported,
                  fmt::format("'{}' differs between layers", key), file.path(),
                  "models with one head count for all layers are supported");
  }
  KVSCOPE_CHECK(!values.empty(), ErrorCode::corrupt_file, fmt::format("'{}' is empty", key),
                file.path());
  return values.front();
}

RopeParameters read_rope(const GgufFile& file, const std::string& prefix, int head_dim) {
  RopeParameters rope;
  rope.base = file.real(prefix + "rope.freq_base", 10000.0);
  KVSCOPE_CHECK(std::isfinite(rope.base) && rope.base > 0, ErrorCode::corrupt_file,
                fmt::format("rope.freq_base is {}", rope.base), file.path());
  rope.dims = size_of(file, prefix + "rope.dimension_count",
                      file.integer(prefix + "rope.dimension_count", head_dim), head_dim);
  const std::string scaling = file.text(prefix + "rope.scaling.type", "none");
  double factor = 1.0;
  if (scaling == "linear") {
    factor = file.real(prefix + "rope.scaling.factor", 1.0);
    KVSCOPE_CHECK(std::isfinite(factor) && factor > 0, ErrorCode::corrupt_file,
                  fmt::format("rope.scaling.factor is {}", factor), file.path());
  } else {
    KVSCOPE_CHECK(
        scaling == "none", ErrorCode::unsupported,
        fmt::format("rope.scaling.type '{}' is not supported (none and linear are)", scaling),
        file.path());
  }
  std::vector<float> divisors(static_cast<std::size_t>(rope.dims / 2), 1.0f);
  if (const GgufTensor* tensor = file.find("rope_freqs.weight")) {
    const BlockType* block = block_type(tensor->type);
    KVSCOPE_CHECK(tensor->elements == rope.dims / 2 && block->elements == 1,
                  ErrorCode::corrupt_file,
                  fmt::format("rope_freqs.weight has {} elements, {} rotary pairs need as many",
                              tensor->elements, rope.dims / 2),
                  file.path());
    block->dequantise(file.data(*tensor), tensor->elements, divisors.data());
  }
  for (int pair = 0; pair < rope.dims / 2; ++pair) {
    rope.inverse_frequency.push_back(std::pow(rope.base, -2.0 * pair / rope.dims) / factor /
                                     static_cast<double>(divisors[static_cast<std::size_t>(pair)]));
  }
  return rope;
}

/// The block type most projection weights have.
std::string most_common_type(const GgufFile& file) {
  std::map<std::string, int> count;
  std::string best = "F32";
  for (const GgufTensor& tensor : file.tensors()) {
    const std::string name = block_type(tensor.type)->name;
    if (tensor.shape.size() == 2 && tensor.name.starts_with("blk.") &&
        ++count[name] > count[best]) {
      best = name;
    }
  }
  return best;
}

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) {
  ModelConfig config;
  config.architecture = file.text("general.architecture");
  KVSCOPE_CHECK(config.architecture == supported_architecture, ErrorCode::unsupported,
                fmt::format("architecture '{}' is not supported", config.architecture), file.path(),
                fmt::format("supported: {}", supported_architecture));
  const std::string prefix = config.architecture + ".";
  ModelShape& shape = config.shape;
  const auto size = [&](const std::string& key, std::int64_t highest) {
    return size_of(file, prefix + key, one_number(file, prefix + key), highest);
  };
  shape.layers = size("block_count", 4096);
  shape.hidden_dim = size("embedding_length", 1 << 20);
  config.mlp_dim = size("feed_forward_length", 1 << 22);
  shape.query_heads = size("attention.head_count", 4096);
  const std::string kv_key = prefix + "attention.head_count_kv";
  shape.kv_heads = file.metadata().count(kv_key) == 0 ? shape.query_heads
                                                      : size("attention.head_count_kv", 4096);
  const std::string length_key = prefix + "attention.key_length";
  shape.head_dim = size_of(file, length_key,
                           file.integer(length_key, shape.hidden_dim / shape.query_heads), 4096);
  config.context_length = size("context_length", std::numeric_limits<int>::max() / 2);
  config.norm_epsilon = file.real(prefix + "attention.layer_norm_rms_epsilon", 1e-5);
  KVSCOPE_CHECK(
      std::isfinite(config.norm_epsilon) && config.norm_epsilon > 0, ErrorCode::corrupt_file,
      fmt::format("attention.layer_norm_rms_epsilon is {}", config.norm_epsilon), file.path());
  shape.attention_scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  shape.rope = read_rope(file, prefix, shape.head_dim);
  const GgufTensor* embedding = file.find("token_embd.weight");
  KVSCOPE_CHECK(embedding != nullptr && embedding->shape.size() == 2, ErrorCode::corrupt_file,
                "tensor 'token_embd.weight' is missing or no matrix", file.path());
  shape.vocabulary = size_of(file, "token_embd.weight rows", embedding->shape[0], 1 << 28);
  config.tied_embeddings = file.find("output.weight") == nullptr;
  config.name = file.text("general.name", std::filesystem::path(file.path()).stem().string());
  config.weights_dtype = most_common_type(file);
  check_shape(shape, file.path());
  return config;
}

std::string gguf_name(Weight weight, int layer) {
  switch (weight) {
    case Weight::token_embedding:
      return "token_embd.weight";
    case Weight::output_norm:
      return "output_norm.weight";
    case Weight::output:
      return "output.weight";
    default:
      break;
  }
  const auto part = [weight] {
    switch (weight) {
      case Weight::attention_norm:
        return "attn_norm";
      case Weight::wq:
      case Weight::bq:
        return "attn_q";
      case Weight::wk:
      case Weight::bk:
        return "attn_k";
      case Weight::wv:
      case Weight::bv:
        return "attn_v";
      case Weight::wo:
      case Weight::bo:
        return "attn_output";
      case Weight::q_norm:
        return "attn_q_norm";
      case Weight::k_norm:
        return "attn_k_norm";
      case Weight::mlp_norm:
        return "ffn_norm";
      case Weight::mlp_gate:
        return "ffn_gate";
      case Weight::mlp_up:
        return "ffn_up";
      case Weight::mlp_down:
        return "ffn_down";
      default:
        return "none";  // a weight of families that this reader refuses
    }
  };
  const bool bias = weight == Weight::bq || weight == Weight::bk || weight == Weight::bv ||
                    weight == Weight::bo;
  return fmt::format("blk.{}.{}.{}", layer, part(), bias ? "bias" : "weight");
}

}  // namespace kvscope
