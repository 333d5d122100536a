#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope {

/// Rotary embedding of one run. Pairs are half-split: channel i rotates with channel i + dims / 2.
struct RopeParameters {
  double base = 10000.0;
  int dims = 0;                           ///< rotated channels of each head; the rest pass through
  std::vector<double> inverse_frequency;  ///< [dims / 2] radians per position, scaling applied
  double attention_factor = 1.0;          ///< multiplies cos and sin
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
