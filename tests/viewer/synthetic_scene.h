#pragma once

#include <string>

#include "kvscope/scene/scene.h"

namespace kvscope::test {

/// What the synthetic run plants.
struct SceneOptions {
  int layers = 4;
  int kv_heads = 2;
  int tokens = 400;
  int needle = 123;  ///< the one token that the first decision loses, in every head of layer 2
};

/// A capture with two decisions: "loses the needle" removes exactly the needle in layer 2; "halves"
/// keeps the even tokens. Scores are stored: token t scores -t.
inline Scene synthetic_scene(const SceneOptions& options = {}) {
  CaptureIndex capture;
  capture.model_name = "synthetic";
  capture.capture_hash = "0123456789abcdef";
  capture.shape.layers = options.layers;
  capture.shape.query_heads = options.kv_heads * 2;
  capture.shape.kv_heads = options.kv_heads;
  capture.shape.head_dim = 8;
  capture.prompt_tokens = capture.context_tokens = capture.tokens = options.tokens;
  TokenTable tokens;
  for (int token = 0; token < options.tokens; ++token) {
    tokens.append(token % 50, token, Segment::context,
                  token % 20 == 19 ? ".\n" : " w" + std::to_string(token));
  }
  tokens.prompt_tokens = tokens.context_tokens = options.tokens;
  Decision needle;
  needle.method = "loses the needle";
  needle.keep = "0.99";
  needle.capture_hash = capture.capture_hash;
  needle.query_heads = options.kv_heads * 2;
  needle.kv_heads = options.kv_heads;
  needle.head_dim = 8;
  needle.tokens = needle.cut_tokens = options.tokens;
  needle.by_method = true;
  needle.events.push_back({0, options.tokens, 0});
  Decision halves = needle;
  halves.method = "halves";
  halves.keep = "0.5";
  for (int row = 0; row < options.layers; ++row) {
    capture.layers.push_back(row);
    LayerDecision layer = LayerDecision::keep_all(row, options.kv_heads, options.tokens);
    for (int kv_head = 0; kv_head < options.kv_heads; ++kv_head) {
      for (int token = 0; token < options.tokens; ++token) {
        layer.scores.push_back(static_cast<float>(-token));
      }
    }
    LayerDecision half = layer;
    for (int kv_head = 0; kv_head < options.kv_heads; ++kv_head) {
      const auto lose = [&](LayerDecision& from, int token) {
        from.fate[from.cell(kv_head, token)] = Fate::evicted;
        from.reason[from.cell(kv_head, token)] = Reason::score;
        from.removed_at[from.cell(kv_head, token)] = 0;
        --from.granted[static_cast<std::size_t>(kv_head)];
      };
      if (row == 2) {
        lose(layer, options.needle);
      }
      for (int token = 1; token < options.tokens; token += 2) {
        lose(half, token);
      }
      half.cut[static_cast<std::size_t>(kv_head)] = {static_cast<float>(options.tokens / 2),
                                                     -200.0f, -201.0f};
    }
    needle.layers.push_back(layer);
    halves.layers.push_back(half);
  }
  return make_scene(capture, tokens, {needle, halves}, std::nullopt);
}

}  // namespace kvscope::test
