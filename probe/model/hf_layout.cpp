#include <fmt/format.h>

#include "hf_model.h"

namespace kvscope {
namespace {

/// The part of the name after "layers.N."; empty if these families have no such weight.
std::string layer_part(Weight weight, bool sandwich) {
  switch (weight) {
    case Weight::attention_norm:
      return "input_layernorm.weight";
    case Weight::wq:
      return "self_attn.q_proj.weight";
    case Weight::bq:
      return "self_attn.q_proj.bias";
    case Weight::wk:
      return "self_attn.k_proj.weight";
    case Weight::bk:
      return "self_attn.k_proj.bias";
    case Weight::wv:
      return "self_attn.v_proj.weight";
    case Weight::bv:
      return "self_attn.v_proj.bias";
    case Weight::wo:
      return "self_attn.o_proj.weight";
    case Weight::bo:
      return "self_attn.o_proj.bias";
    case Weight::q_norm:
      return "self_attn.q_norm.weight";
    case Weight::k_norm:
      return "self_attn.k_norm.weight";
    case Weight::mlp_norm:  // Llama's name for it is misleading, Gemma uses it for what it says
      return sandwich ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight";
    case Weight::post_attention_norm:
      return sandwich ? "post_attention_layernorm.weight" : "";
    case Weight::post_mlp_norm:
      return sandwich ? "post_feedforward_layernorm.weight" : "";
    case Weight::mlp_gate:
      return "mlp.gate_proj.weight";
    case Weight::mlp_gate_bias:
      return "mlp.gate_proj.bias";
    case Weight::mlp_up:
      return "mlp.up_proj.weight";
    case Weight::mlp_up_bias:
      return "mlp.up_proj.bias";
    case Weight::mlp_down:
      return "mlp.down_proj.weight";
    case Weight::mlp_down_bias:
      return "mlp.down_proj.bias";
    default:
      return "";
  }
}

std::string falcon_part(Weight weight, bool parallel) {
  switch (weight) {
    case Weight::attention_norm:
      return "input_layernorm.weight";
    case Weight::attention_norm_bias:
      return "input_layernorm.bias";
    case Weight::mlp_norm:
      return parallel ? "" : "post_attention_layernorm.weight";
    case Weight::mlp_norm_bias:
      return parallel ? "" : "post_attention_layernorm.bias";
    case Weight::wo:
      return "self_attention.dense.weight";
    case Weight::bo:
      return "self_attention.dense.bias";
    case Weight::mlp_up:
      return "mlp.dense_h_to_4h.weight";
    case Weight::mlp_up_bias:
      return "mlp.dense_h_to_4h.bias";
    case Weight::mlp_down:
      return "mlp.dense_4h_to_h.weight";
    case Weight::mlp_down_bias:
      return "mlp.dense_4h_to_h.bias";
    default:
      return "";
  }
}

/// Rows of a projection that holds queries, keys and values one after another.
Place fused_rows(Weight weight, const ModelConfig& config, const std::string& stem) {
  const std::int64_t queries = std::int64_t{config.shape.query_heads} * config.shape.head_dim;
  const std::int64_t keys = std::int64_t{config.shape.kv_heads} * config.shape.head_dim;
  const std::int64_t all = queries + 2 * keys;
  switch (weight) {
    case Weight::wq:
      return {stem + ".weight", 0, all};
    case Weight::wk:
      return {stem + ".weight", queries, all};
    case Weight::wv:
      return {stem + ".weight", queries + keys, all};
    case Weight::bq:
      return {stem + ".bias", 0, all};
    case Weight::bk:
      return {stem + ".bias", queries, all};
    case Weight::bv:
      return {stem + ".bias", queries + keys, all};
    default:
      return {};
  }
}

std::string prefix_of(const TensorStore& store) {
  for (const char* prefix : {"model.", "language_model.model.", "model.language_model.", ""}) {
    if (store.find(std::string(prefix) + "embed_tokens.weight") != nullptr) {
      return prefix;
    }
  }
  return "model.";
}

std::string model_name(Weight weight, const std::string& prefix) {
  switch (weight) {
    case Weight::token_embedding:
      return prefix + "embed_tokens.weight";
    case Weight::output_norm:
      return prefix + "norm.weight";
    case Weight::output:
      return prefix.starts_with("language_model.") ? "language_model.lm_head.weight"
                                                   : "lm_head.weight";
    default:
      return "";
  }
}

std::string falcon_model_name(Weight weight) {
  switch (weight) {
    case Weight::token_embedding:
      return "transformer.word_embeddings.weight";
    case Weight::output_norm:
      return "transformer.ln_f.weight";
    case Weight::output_norm_bias:
      return "transformer.ln_f.bias";
    default:
      return "lm_head.weight";
  }
}

bool of_model(Weight weight) {
  return weight == Weight::token_embedding || weight == Weight::output_norm ||
         weight == Weight::output || weight == Weight::output_norm_bias;
}

Place falcon_place(Weight weight, int layer, const ModelConfig& config) {
  if (of_model(weight)) {
    return {falcon_model_name(weight)};
  }
  const std::string stem = fmt::format("transformer.h.{}.", layer);
  const Place fused = fused_rows(weight, config, stem + "self_attention.query_key_value");
  const std::string part = falcon_part(weight, config.parallel_mlp);
  return !fused.tensor.empty() ? fused : Place{part.empty() ? part : stem + part};
}

}  // namespace

TensorLayout hf_layout(const ModelConfig& config, const TensorStore& store) {
  TensorLayout layout;
  const bool gemma = config.architecture.starts_with("gemma");
  layout.norm_offset = gemma ? 1.0f : 0.0f;
  const std::string prefix = prefix_of(store);
  layout.ignorable = [prefix](const std::string& name) {
    const bool other_modality = prefix.find("language_model.") != std::string::npos &&
                                name.find("language_model.") == std::string::npos;
    return other_modality || name == "lm_head.weight" ||  // a copy of the tied embedding
           name.ends_with("rotary_emb.inv_freq") || name.ends_with("attn.bias") ||
           name.ends_with("attn.masked_bias");
  };
  if (config.architecture == "falcon") {
    layout.place = [config](Weight weight, int layer) {
      return falcon_place(weight, layer, config);
    };
    return layout;
  }
  const bool fused = config.architecture == "phi3";
  layout.place = [=](Weight weight, int layer) -> Place {
    if (of_model(weight)) {
      return {model_name(weight, prefix)};
    }
    const std::string stem = fmt::format("{}layers.{}.", prefix, layer);
    if (fused) {
      const Place rows = fused_rows(weight, config, stem + "self_attn.qkv_proj");
      if (!rows.tensor.empty()) {
        return rows;
      }
      const std::int64_t mlp = config.mlp_dim;
      if (weight == Weight::mlp_gate || weight == Weight::mlp_up) {
        return {stem + "mlp.gate_up_proj.weight", weight == Weight::mlp_gate ? 0 : mlp, 2 * mlp};
      }
    }
    const std::string part = layer_part(weight, gemma);
    return {part.empty() ? part : stem + part};
  };
  return layout;
}

}  // namespace kvscope
