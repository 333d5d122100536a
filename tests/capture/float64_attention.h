#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "kvscope/storage/capture_reader.h"

namespace kvscope::test {

/// One query head's whole causal map in float64, from the file's Q and K alone: [query][key].
/// For a capture that holds all queries.
inline std::vector<std::vector<double>> float64_map(const CaptureReader& reader, int layer,
                                                    int query_head) {
  const CaptureIndex& index = reader.index();
  const ModelShape& shape = index.shape;
  const int tokens = index.prompt_tokens;
  const int dim = shape.head_dim;
  std::vector<float> q(static_cast<std::size_t>(tokens * dim));
  std::vector<float> k(q.size());
  reader.read(layer_dataset(layer, "queries"), {query_head, 0, 0}, {1, tokens, dim}, std::span(q));
  reader.read(layer_dataset(layer, "keys"),
              {query_head / (shape.query_heads / shape.kv_heads), 0, 0}, {1, tokens, dim},
              std::span(k));
  std::vector<std::vector<double>> map;
  for (int query = 0; query < tokens; ++query) {
    std::vector<double> row(static_cast<std::size_t>(tokens), 0.0);
    double total = 0;
    for (int key = 0; key <= query; ++key) {
      double dot = 0;
      for (int channel = 0; channel < dim; ++channel) {
        dot += static_cast<double>(q[static_cast<std::size_t>(query * dim + channel)]) *
               static_cast<double>(k[static_cast<std::size_t>(key * dim + channel)]);
      }
      row[static_cast<std::size_t>(key)] = std::exp(dot * shape.attention_scale);
      total += row[static_cast<std::size_t>(key)];
    }
    for (double& p : row) {
      p /= total;
    }
    map.push_back(row);
  }
  return map;
}

}  // namespace kvscope::test
