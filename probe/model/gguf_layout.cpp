#include <fmt/format.h>

#include "gguf_model.h"

namespace kvscope {
namespace {

/// The part of the name after "blk.N."; empty if GGUF has no such weight.
const char* layer_part(Weight weight) {
  switch (weight) {
    case Weight::attention_norm:
      return "attn_norm.weight";
    case Weight::attention_norm_bias:
      return "attn_norm.bias";
    case Weight::wq:
      return "attn_q.weight";
    case Weight::bq:
      return "attn_q.bias";
    case Weight::wk:
      return "attn_k.weight";
    case Weight::bk:
      return "attn_k.bias";
    case Weight::wv:
      return "attn_v.weight";
    case Weight::bv:
      return "attn_v.bias";
    case Weight::wo:
      return "attn_output.weight";
    case Weight::bo:
      return "attn_output.bias";
    case Weight::q_norm:
      return "attn_q_norm.weight";
    case Weight::k_norm:
      return "attn_k_norm.weight";
    case Weight::post_attention_norm:
      return "post_attention_norm.weight";
    case Weight::mlp_norm:
      return "ffn_norm.weight";
    case Weight::mlp_norm_bias:
      return "ffn_norm.bias";
    case Weight::mlp_gate:
      return "ffn_gate.weight";
    case Weight::mlp_gate_bias:
      return "ffn_gate.bias";
    case Weight::mlp_up:
      return "ffn_up.weight";
    case Weight::mlp_up_bias:
      return "ffn_up.bias";
    case Weight::mlp_down:
      return "ffn_down.weight";
    case Weight::mlp_down_bias:
      return "ffn_down.bias";
    case Weight::post_mlp_norm:
      return "post_ffw_norm.weight";
    default:
      return "";
  }
}

std::string gguf_name(Weight weight, int layer) {
  switch (weight) {
    case Weight::token_embedding:
      return "token_embd.weight";
    case Weight::output_norm:
      return "output_norm.weight";
    case Weight::output_norm_bias:
      return "output_norm.bias";
    case Weight::output:
      return "output.weight";
    default:
      return fmt::format("blk.{}.{}", layer, layer_part(weight));
  }
}

/// Falcon 40B calls its attention norm attn_norm_2, and attn_norm is the MLP's.
Place two_norms(Weight weight, int layer) {
  switch (weight) {
    case Weight::attention_norm:
      return {fmt::format("blk.{}.attn_norm_2.weight", layer)};
    case Weight::attention_norm_bias:
      return {fmt::format("blk.{}.attn_norm_2.bias", layer)};
    case Weight::mlp_norm:
      return {fmt::format("blk.{}.attn_norm.weight", layer)};
    case Weight::mlp_norm_bias:
      return {fmt::format("blk.{}.attn_norm.bias", layer)};
    default:
      return {};
  }
}

}  // namespace

TensorLayout gguf_layout(const ModelConfig& config, const TensorStore& store) {
  TensorLayout layout;
  layout.neighbouring_pairs = config.architecture == "llama" || config.architecture == "smollm3";
  const bool fused_qkv = store.find("blk.0.attn_qkv.weight") != nullptr;
  const bool fused_mlp = config.gated_mlp && store.find("blk.0.ffn_gate.weight") == nullptr;
  const bool two = store.find("blk.0.attn_norm_2.weight") != nullptr;
  const std::int64_t query_rows = std::int64_t{config.shape.query_heads} * config.shape.head_dim;
  const std::int64_t kv_rows = std::int64_t{config.shape.kv_heads} * config.shape.head_dim;
  const std::int64_t mlp = config.mlp_dim;
  layout.place = [=](Weight weight, int layer) -> Place {
    if (fused_qkv) {
      const std::int64_t all = query_rows + 2 * kv_rows;
      const auto fused = [&](const char* kind, std::int64_t first) {
        return Place{fmt::format("blk.{}.attn_qkv.{}", layer, kind), first, all};
      };
      switch (weight) {
        case Weight::wq:
          return fused("weight", 0);
        case Weight::wk:
          return fused("weight", query_rows);
        case Weight::wv:
          return fused("weight", query_rows + kv_rows);
        case Weight::bq:
          return fused("bias", 0);
        case Weight::bk:
          return fused("bias", query_rows);
        case Weight::bv:
          return fused("bias", query_rows + kv_rows);
        default:
          break;
      }
    }
    if (fused_mlp && (weight == Weight::mlp_gate || weight == Weight::mlp_up)) {
      return {gguf_name(Weight::mlp_up, layer), weight == Weight::mlp_gate ? 0 : mlp, 2 * mlp};
    }
    if (two) {
      const Place place = two_norms(weight, layer);
      if (!place.tensor.empty()) {
        return place;
      }
    }
    return {gguf_name(weight, layer)};
  };
  layout.ignorable = [](const std::string& name) {
    return name == "rope_freqs.weight" || name == "rope_factors_long.weight" ||
           name == "rope_factors_short.weight";
  };
  return layout;
}

}  // namespace kvscope
