#pragma once

#include <string>

namespace kvscope {

/// Where a forward pass can be looked into. n tokens of this pass, T slots of the cache; channels
/// last.
enum class HookPoint {
  residual_in,       ///< [n, hidden_dim] block input; of layer 0 the scaled embedding
  attention_input,   ///< [n, hidden_dim] after the input norm
  queries_raw,       ///< [query_heads, n, head_dim] projection and bias, before the QK norm
  keys_raw,          ///< [kv_heads, n, head_dim] likewise
  queries_pre_rope,  ///< [query_heads, n, head_dim] after the QK norm, enters the rotation
  keys_pre_rope,     ///< [kv_heads, n, head_dim] likewise
  queries,           ///< [query_heads, n, head_dim] post-RoPE, unscaled
  keys,              ///< [kv_heads, T, head_dim] post-RoPE, the whole cache
  values,            ///< [kv_heads, T, head_dim], the whole cache
  attention_output,  ///< [query_heads, n, head_dim] per head, before W_O
  block_attention,   ///< [n, hidden_dim] after W_O, before a post-norm
  residual_mid,      ///< [n, hidden_dim] after attention was added
  mlp_input,         ///< [n, hidden_dim] after the MLP's norm
  mlp_output,        ///< [n, hidden_dim] before a post-norm
  residual_out,      ///< [n, hidden_dim] block output
  embedding,         ///< [n, hidden_dim] after the embedding's scale; of the model, not of a layer
  final_norm,        ///< [n, hidden_dim] after the output norm; of the model
  logits,            ///< [n, vocabulary] float32; of the model, and seen by recorders only
};

inline constexpr int hook_points = static_cast<int>(HookPoint::logits) + 1;

/// What the numbers of one token hang on.
enum class HookAxes { hidden, query_heads, kv_heads, vocabulary };

HookAxes hook_axes(HookPoint point);
/// Of the model as a whole: `embedding`, `final_norm`, `logits`. Their layer is the number of
/// layers.
bool of_model(HookPoint point);
const char* hook_name(HookPoint point);
/// "after W_O, before a post-norm"
const char* hook_meaning(HookPoint point);
/// Throws Error{usage} with the nearest name.
HookPoint parse_hook(const std::string& name);

}  // namespace kvscope
