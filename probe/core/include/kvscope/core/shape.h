#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope {

/// Whether the rotation changes with the length of the sequence.
enum class RopeGrowth {
  fixed,        ///< one table for every length
  longrope,     ///< a second table once the sequence is longer than `original_context`
  dynamic_ntk,  ///< the base grows with every token beyond `original_context`
};

/// Rotary embedding of one layer. Pairs are half-split: channel i rotates with channel i + dims
/// / 2.
struct RopeParameters {
  double base = 10000.0;
  int dims =
      0;  ///< rotated channels of each head, the first ones; the rest pass through. 0 = no rotation
  std::vector<double> inverse_frequency;  ///< [dims / 2] radians per position, scaling applied
  double attention_factor = 1.0;          ///< multiplies cos and sin
  std::string scaling = "none";  ///< none, linear, llama3, yarn, longrope, dynamic; already applied
  RopeGrowth growth = RopeGrowth::fixed;
  int original_context = 0;    ///< tokens up to which `inverse_frequency` holds, unless `fixed`
  double growth_factor = 1.0;  ///< dynamic_ntk: its factor
  std::vector<double> long_inverse_frequency;  ///< longrope: [dims / 2] beyond `original_context`

  /// The table for a forward pass after which `tokens` tokens have been seen; `inverse_frequency`
  /// unless the rotation grows. Keys rotated earlier keep the table they were rotated with, as in
  /// transformers. Dynamic NTK: base (f n / original - (f - 1))^(dims / (dims - 2)).
  std::vector<double> frequencies(std::int64_t tokens) const;
};

/// Sizes and attention constants of a model; what every piece of kvscope needs to know about it.
struct ModelShape {
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int hidden_dim = 0;
  int vocabulary = 0;
  double attention_scale = 0.0;  ///< multiplies q.k
  double logit_softcap = 0.0;    ///< c in c * tanh(s / c); 0 = none
  std::vector<int>
      layer_windows;  ///< [layers] sliding window in tokens, 0 = global; empty = all global
  RopeParameters rope;
  /// [layers] where layers rotate differently: Gemma 3's local layers, layers without rotation
  /// (NoPE: dims 0); empty = `rope` in all of them.
  std::vector<RopeParameters> layer_ropes;

  const RopeParameters& rope_of(int layer) const {
    return layer_ropes.empty() ? rope : layer_ropes[static_cast<std::size_t>(layer)];
  }
  int group_size() const { return query_heads / kv_heads; }
  int kv_head_of(int query_head) const { return query_head / group_size(); }
  int window_of(int layer) const {
    return layer_windows.empty() ? 0 : layer_windows[static_cast<std::size_t>(layer)];
  }
};

/// Throws Error{corrupt_file} naming `where` unless the sizes are positive and agree.
void check_shape(const ModelShape& shape, const std::string& where);

enum class Phase { prefill, decode };

/// When a piece looks: which layer, after how many tokens, at which step (0 = prefill).
struct Moment {
  int layer = 0;
  int tokens_seen = 0;
  int step = 0;
  Phase phase = Phase::prefill;
};

/// Frame of reference of a key: before or after the rotary rotation.
enum class Frame { post_rope, pre_rope };

}  // namespace kvscope
