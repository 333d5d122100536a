#include "reference_model.h"

#include <cmath>

#include "reference_steps.h"

namespace kvscope::test {
namespace {

/// Attention of one query: fills `probability` per head and returns the heads' outputs, joined.
Vector attend(const ModelShape& shape, int layer, int query, const Vector& queries,
              const ReferenceResult& result, const KeyWeight& weight,
              std::vector<std::vector<std::vector<double>>>& probability) {
  const auto l = static_cast<std::size_t>(layer);
  const auto dim = static_cast<std::size_t>(shape.head_dim);
  Vector output(queries.size(), 0.0);
  for (int head = 0; head < shape.query_heads; ++head) {
    const int kv_head = shape.kv_head_of(head);
    const std::size_t q = static_cast<std::size_t>(head) * dim;
    const std::size_t k = static_cast<std::size_t>(kv_head) * dim;
    Vector row(result.keys[l].size(), 0.0);
    double total = 0;
    for (int key = 0; key <= query; ++key) {
      double logit = 0;
      for (std::size_t channel = 0; channel < dim; ++channel) {
        logit += queries[q + channel] * result.keys[l][static_cast<std::size_t>(key)][k + channel];
      }
      row[static_cast<std::size_t>(key)] =
          weight(layer, kv_head, query, key) * std::exp(logit * shape.attention_scale);
      total += row[static_cast<std::size_t>(key)];
    }
    for (std::size_t key = 0; key < row.size(); ++key) {
      row[key] /= total;
      for (std::size_t channel = 0; channel < dim; ++channel) {
        output[q + channel] += row[key] * result.values[l][key][k + channel];
      }
    }
    probability[static_cast<std::size_t>(head)].push_back(row);
  }
  return output;
}

}  // namespace

double causal(int, int, int query, int key) {
  return key <= query ? 1.0 : 0.0;
}

ReferenceResult reference_forward(const FakeModelFile& file, std::span<const std::int32_t> ids,
                                  const KeyWeight& weight) {
  const ModelShape& shape = file.config().shape;
  const auto hidden_dim = static_cast<std::size_t>(shape.hidden_dim);
  const std::vector<float>& embedding = file.values(Weight::token_embedding, -1);
  std::vector<Vector> hidden;
  for (const std::int32_t id : ids) {
    const auto at = embedding.begin() + static_cast<std::ptrdiff_t>(id) * shape.hidden_dim;
    hidden.emplace_back(at, at + static_cast<std::ptrdiff_t>(hidden_dim));
  }
  ReferenceResult result;
  for (int layer = 0; layer < shape.layers; ++layer) {
    result.keys.emplace_back();
    result.keys_pre_rope.emplace_back();
    result.values.emplace_back();
    result.attention.emplace_back(static_cast<std::size_t>(shape.query_heads));
    std::vector<Vector> queries;
    for (std::size_t token = 0; token < ids.size(); ++token) {
      const Vector x = normed(hidden[token], file.values(Weight::attention_norm, layer),
                              file.config().norm_epsilon);
      queries.push_back(product(file.values(Weight::wq, layer), x));
      Vector key = product(file.values(Weight::wk, layer), x);
      result.keys_pre_rope.back().push_back(key);
      rotate(queries.back(), shape.head_dim, shape.rope, static_cast<int>(token));
      rotate(key, shape.head_dim, shape.rope, static_cast<int>(token));
      result.keys.back().push_back(key);
      result.values.back().push_back(product(file.values(Weight::wv, layer), x));
    }
    for (std::size_t token = 0; token < ids.size(); ++token) {
      const Vector output = attend(shape, layer, static_cast<int>(token), queries[token], result,
                                   weight, result.attention.back());
      add(hidden[token], product(file.values(Weight::wo, layer), output));
      run_mlp(file, layer, hidden[token]);
    }
  }
  const bool tied = file.config().tied_embeddings;
  for (const Vector& row : hidden) {
    const Vector x = normed(row, file.values(Weight::output_norm, -1), file.config().norm_epsilon);
    result.logits.push_back(product(tied ? embedding : file.values(Weight::output, -1), x));
  }
  return result;
}

}  // namespace kvscope::test
