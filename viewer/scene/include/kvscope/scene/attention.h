#pragma once

#include <vector>

#include "kvscope/core/attention_tile.h"
#include "kvscope/core/shape.h"

namespace kvscope {

/// Stored rows of one query head and its KV head, from which attention follows.
struct AttentionRows {
  int layer = 0;
  int query_head = 0;
  int first_query = 0;         ///< token of the first query
  std::vector<float> queries;  ///< [queries, head_dim], after RoPE
  std::vector<float> keys;     ///< [keys, head_dim], after RoPE, from token 0 on
};

/// The attention of every stored query to every key, exactly: scaled, capped, causal, inside the
/// layer's window, normalised over the whole row. Cost: queries x keys x head_dim.
AttentionTile attention_of(const AttentionRows& rows, const ModelShape& shape);

/// A tile reduced to at most width x height cells: the largest probability in each, so that a thin
/// peak is never lost. [height, width], row-major; sizes are those of the result.
struct AttentionPicture {
  int width = 0;
  int height = 0;
  std::vector<float> probability;
};
AttentionPicture shrink(const AttentionTile& tile, int width, int height);

}  // namespace kvscope
