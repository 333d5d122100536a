#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "fake_model.h"

namespace kvscope::test {

/// How much of a key a query sees: 0 hidden, 1 one token, more for merged slots.
using KeyWeight = std::function<double(int layer, int kv_head, int query, int key)>;

/// Plain causal attention.
double causal(int layer, int kv_head, int query, int key);

struct ReferenceResult {
  std::vector<std::vector<double>> logits;  ///< [tokens][vocabulary]
  /// [layer][query_head][query][key] probabilities
  std::vector<std::vector<std::vector<std::vector<double>>>> attention;
  std::vector<std::vector<std::vector<double>>> keys;  ///< [layer][token][channels] post-RoPE
  std::vector<std::vector<std::vector<double>>> keys_pre_rope;  ///< [layer][token][channels]
  std::vector<std::vector<std::vector<double>>> values;         ///< [layer][token][channels]
};

/// The whole forward pass in float64 and plain loops, from the definitions: the anchor of every
/// correctness claim of the runtime.
ReferenceResult reference_forward(const FakeModelFile& file, std::span<const std::int32_t> ids,
                                  const KeyWeight& weight = causal);

}  // namespace kvscope::test
