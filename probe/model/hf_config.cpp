#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "hf_model.h"
#include "hf_rope.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr std::int64_t longest = std::numeric_limits<int>::max() / 2;

/// What a family's config class assumes where config.json is silent.
struct Family {
  const char* model_type;
  const char* architecture;
  int head_dim;  ///< 0 = hidden_size / heads
};

constexpr Family families[] = {
    {"llama", "llama", 0},          {"mistral", "mistral", 0}, {"qwen2", "qwen2", 0},
    {"qwen3", "qwen3", 128},        {"phi3", "phi3", 0},       {"gemma2", "gemma2", 256},
    {"gemma3_text", "gemma3", 256}, {"gemma3", "gemma3", 256}, {"smollm3", "smollm3", 0},
    {"falcon", "falcon", 0},
};

const Family& family_of(const JsonFields& fields) {
  const std::string type = fields.text("model_type", "");
  std::string known;
  for (const Family& family : families) {
    if (type == family.model_type) {
      return family;
    }
    known += known.empty() ? family.model_type : fmt::format(", {}", family.model_type);
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("field 'model_type' is '{}', which is not supported", type.substr(0, 40)),
              fields.where(), "known: " + known);
}

/// Fields that would change the network in ways kvscope does not have.
void refuse_unsupported(const JsonFields& fields) {
  for (const char* experts : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    if (fields.integer(experts, 0, 1 << 20, 0) > 0) {
      fields.unsupported(experts, "mixtures of experts are not supported");
    }
  }
  for (const char* flag : {"use_bidirectional_attention", "alibi", "new_decoder_architecture"}) {
    if (fields.has(flag) && fields.value(flag) != false) {
      fields.unsupported(flag, "only false is supported");
    }
  }
  if (fields.has("quantization_config")) {
    const JsonFields quantized = fields.object("quantization_config");
    if (quantized.text("quant_method", "") != "fp8") {
      fields.unsupported("quantization_config",
                         "of these only fp8 is supported; else give unquantised weights or GGUF");
    }
  }
}

Activation activation_of(const JsonFields& fields, const std::string& name,
                         const std::string& otherwise) {
  const std::string activation = fields.text(name, otherwise);
  if (activation == "silu" || activation == "swish") {
    return Activation::silu;
  }
  if (activation == "gelu_pytorch_tanh" || activation == "gelu_new") {
    return Activation::gelu_tanh;
  }
  if (activation == "gelu") {
    return Activation::gelu;
  }
  if (activation == "relu") {
    return Activation::relu;
  }
  fields.unsupported(name, "known: silu, gelu, gelu_pytorch_tanh, relu");
}

/// Windows by layer_types where given, else by the family's own rule.
void read_windows(const JsonFields& fields, ModelConfig& config) {
  ModelShape& shape = config.shape;
  const std::string& family = config.architecture;
  const bool gemma = family.starts_with("gemma");
  const bool switched = family.starts_with("qwen") || family == "smollm3";
  if (family == "llama" || family == "falcon" ||
      (switched && !fields.flag("use_sliding_window", false))) {
    return;
  }
  // An explicit null means no window; an absent field the default of Mistral and Gemma.
  const bool defaulted = !fields.contains("sliding_window") && family != "phi3";
  const auto window =
      static_cast<int>(fields.integer("sliding_window", 1, longest, defaulted ? 4096 : 0));
  if (window == 0) {
    return;
  }
  const int pattern = static_cast<int>(fields.integer(
      "sliding_window_pattern", 1, 4096,
      fields.integer("_sliding_window_pattern", 1, 4096, family == "gemma2" ? 2 : 6)));
  const auto first = fields.integer("max_window_layers", 0, longest, 28);
  const bool listed = fields.has("layer_types");
  if (listed && fields.array("layer_types").size() != static_cast<std::size_t>(shape.layers)) {
    fields.refuse("layer_types", fmt::format("there are {} layers", shape.layers));
  }
  for (int layer = 0; layer < shape.layers; ++layer) {
    bool local = gemma ? (layer + 1) % pattern != 0 : switched ? layer >= first : true;
    if (listed) {
      const nlohmann::json& type = fields.array("layer_types")[static_cast<std::size_t>(layer)];
      local = type == "sliding_attention";
      if (!local && type != "full_attention") {
        fields.unsupported("layer_types", "known: full_attention, sliding_attention");
      }
    }
    shape.layer_windows.push_back(local ? window : 0);
  }
}

void read_gemma(const JsonFields& fields, ModelConfig& config) {
  const bool second = config.architecture == "gemma2";
  config.norm_rounds_last = true;
  config.embedding_scale = std::sqrt(static_cast<double>(config.shape.hidden_dim));
  config.activation = activation_of(fields, "hidden_activation", "gelu_pytorch_tanh");
  const double scalar = fields.number("query_pre_attn_scalar", 256);
  if (!(scalar > 0)) {
    fields.refuse("query_pre_attn_scalar", "it must be positive");
  }
  config.shape.attention_scale = 1.0 / std::sqrt(scalar);
  const auto cap = [&](const char* name, double otherwise) {
    const double value = fields.number(name, fields.contains(name) ? 0.0
                                             : second              ? otherwise
                                                                   : 0.0);
    if (value < 0) {
      fields.refuse(name, "it must be positive");
    }
    return value;
  };
  config.shape.logit_softcap = cap("attn_logit_softcapping", 50.0);
  config.output_softcap = cap("final_logit_softcapping", 30.0);
}

void read_falcon(const JsonFields& fields, ModelConfig& config) {
  if (!fields.flag("multi_query", true)) {
    fields.unsupported("multi_query", "only true is supported");
  }
  config.shape.kv_heads = 1;
  config.norm = NormKind::layer;
  config.norm_epsilon = fields.number("layer_norm_epsilon", 1e-5);
  config.gated_mlp = false;
  config.activation = activation_of(fields, "activation", "gelu");
  config.parallel_mlp = fields.flag("parallel_attn", true);
  config.mlp_dim = static_cast<int>(
      fields.integer("ffn_hidden_size", 1, 1 << 22, std::int64_t{4} * config.shape.hidden_dim));
}

ModelConfig read_text_config(const JsonFields& fields, const Family& family) {
  ModelConfig config;
  config.architecture = family.architecture;
  const bool falcon = config.architecture == "falcon";
  const bool gemma = config.architecture.starts_with("gemma");
  ModelShape& shape = config.shape;
  const auto size = [&](const char* name, std::int64_t highest) {
    return static_cast<int>(fields.integer(name, 1, highest));
  };
  shape.layers = size("num_hidden_layers", 4096);
  shape.hidden_dim = size("hidden_size", 1 << 20);
  shape.query_heads = size("num_attention_heads", 4096);
  shape.vocabulary = size("vocab_size", 1 << 28);
  shape.kv_heads =
      static_cast<int>(fields.integer("num_key_value_heads", 1, 4096, shape.query_heads));
  config.context_length =
      static_cast<int>(fields.integer("max_position_embeddings", 1, longest, 2048));
  const int even = shape.hidden_dim / shape.query_heads;
  shape.head_dim = falcon ? even
                          : static_cast<int>(fields.integer(
                                "head_dim", 1, 4096, family.head_dim > 0 ? family.head_dim : even));
  shape.attention_scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  if (falcon) {
    read_falcon(fields, config);
  } else {
    config.mlp_dim = size("intermediate_size", 1 << 22);
    config.norm_epsilon = fields.number("rms_norm_eps", 1e-6);
    config.activation = gemma ? Activation::gelu_tanh : activation_of(fields, "hidden_act", "silu");
  }
  if (!(config.norm_epsilon > 0)) {
    fields.refuse(falcon ? "layer_norm_epsilon" : "rms_norm_eps", "it must be positive");
  }
  if (gemma) {
    read_gemma(fields, config);
  }
  read_windows(fields, config);
  read_hf_rope(fields, config);
  if (shape.rope.growth == RopeGrowth::dynamic_ntk) {
    // The config names the length the model was trained on; the scaling is for `factor` times that.
    config.context_length = static_cast<int>(
        std::min(config.context_length * shape.rope.growth_factor, static_cast<double>(longest)));
  }
  check_shape(shape, fields.where());
  return config;
}

}  // namespace

ModelConfig read_hf_config(const nlohmann::json& json, const std::string& where) {
  const JsonFields whole(json, where);
  refuse_unsupported(whole);
  const Family& family = family_of(whole);
  if (!whole.has("text_config")) {
    return read_text_config(whole, family);
  }
  const JsonFields text = whole.object("text_config");
  refuse_unsupported(text);
  return read_text_config(text, family);
}

}  // namespace kvscope
