#include "kvscope/scene/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvscope {
namespace {

double dot(const float* a, const float* b, int size) {
  double sum = 0;
  for (int at = 0; at < size; ++at) {
    sum += static_cast<double>(a[at]) * static_cast<double>(b[at]);
  }
  return sum;
}

/// Logits of one query in place of the row, then their softmax; keys outside [first, last) get 0.
void fill_row(const float* query, const AttentionRows& rows, const ModelShape& shape, int first,
              int last, float* out) {
  double most = -std::numeric_limits<double>::infinity();
  for (int key = first; key < last; ++key) {
    const auto at = static_cast<std::size_t>(key) * static_cast<std::size_t>(shape.head_dim);
    double logit = shape.attention_scale * dot(query, rows.keys.data() + at, shape.head_dim);
    if (shape.logit_softcap > 0) {
      logit = shape.logit_softcap * std::tanh(logit / shape.logit_softcap);
    }
    out[key] = static_cast<float>(logit);
    most = std::max(most, logit);
  }
  double sum = 0;
  for (int key = first; key < last; ++key) {
    sum += std::exp(static_cast<double>(out[key]) - most);
  }
  for (int key = first; key < last; ++key) {
    out[key] = static_cast<float>(std::exp(static_cast<double>(out[key]) - most) / sum);
  }
}

}  // namespace

AttentionTile attention_of(const AttentionRows& rows, const ModelShape& shape) {
  AttentionTile tile;
  tile.layer = rows.layer;
  tile.query_head = rows.query_head;
  tile.first_query = rows.first_query;
  const auto dim = static_cast<std::size_t>(std::max(1, shape.head_dim));
  tile.queries = static_cast<int>(rows.queries.size() / dim);
  tile.keys = static_cast<int>(rows.keys.size() / dim);
  tile.probability.assign(
      static_cast<std::size_t>(tile.queries) * static_cast<std::size_t>(tile.keys), 0.0f);
  const int window = shape.window_of(rows.layer);
  for (int query = 0; query < tile.queries; ++query) {
    const int last = std::min(tile.keys, rows.first_query + query + 1);
    const int first = window > 0 ? std::max(0, rows.first_query + query + 1 - window) : 0;
    if (first < last) {
      fill_row(rows.queries.data() + static_cast<std::size_t>(query) * dim, rows, shape, first,
               last,
               tile.probability.data() +
                   static_cast<std::size_t>(query) * static_cast<std::size_t>(tile.keys));
    }
  }
  return tile;
}

AttentionPicture shrink(const AttentionTile& tile, int width, int height) {
  AttentionPicture picture;
  picture.width = std::min(width, tile.keys);
  picture.height = std::min(height, tile.queries);
  picture.probability.assign(
      static_cast<std::size_t>(picture.width) * static_cast<std::size_t>(picture.height), 0.0f);
  for (int query = 0; query < tile.queries; ++query) {
    const auto y = static_cast<std::size_t>(std::int64_t{query} * picture.height / tile.queries);
    for (int key = 0; key < tile.keys; ++key) {
      const auto x = static_cast<std::size_t>(std::int64_t{key} * picture.width / tile.keys);
      float& cell = picture.probability[y * static_cast<std::size_t>(picture.width) + x];
      cell = std::max(
          cell,
          tile.probability[static_cast<std::size_t>(query) * static_cast<std::size_t>(tile.keys) +
                           static_cast<std::size_t>(key)]);
    }
  }
  return picture;
}

}  // namespace kvscope
