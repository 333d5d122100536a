#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fake_model.h"

namespace kvscope::test {

/// A merged cache in float64, all KV heads alike: pre-RoPE keys, summed values, multiplicities.
struct ReferenceCache {
  struct Layer {
    std::vector<std::vector<double>> keys;    ///< [slots][kv_heads * head_dim]
    std::vector<std::vector<double>> values;  ///< [slots][kv_heads * head_dim]
    std::vector<double> multiplicity;         ///< [slots]
  };
  std::vector<Layer> layers;
};

struct ReferenceChunk {
  std::vector<std::vector<double>> logits;  ///< [rows][vocabulary]
  /// [layer][query_head][row][slot] attention mass: multiplicity times the probability of one token
  std::vector<std::vector<std::vector<std::vector<double>>>> mass;
  double loss = 0;       ///< mean next-token cross entropy inside the chunk
  ReferenceCache cache;  ///< with the chunk behind it
};

/// One chunk over a cache, from the definitions: positions from running sums of multiplicities,
/// which stand in the softmax's denominator only.
ReferenceChunk reference_chunk(const FakeModelFile& file, const ReferenceCache& cache,
                               std::span<const std::int32_t> ids);

}  // namespace kvscope::test
