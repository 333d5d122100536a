#include "reference_cache.h"

#include <cmath>

#include "reference_steps.h"

namespace kvscope::test {
namespace {

using Rows = std::vector<Vector>;

/// Positions of the slots, and where the next token would stand.
std::pair<std::vector<int>, int> positions_of(const Vector& multiplicity) {
  std::vector<int> positions;
  double through = 0;
  for (const double count : multiplicity) {
    through += count;
    positions.push_back(static_cast<int>(std::lround(through - multiplicity.front())));
  }
  return {positions, static_cast<int>(std::lround(through))};
}

class Chunk {
 public:
  Chunk(const FakeModelFile& file, std::span<const std::int32_t> ids)
      : file_(file), shape_(file.config().shape) {
    const std::vector<float>& embedding = file.values(Weight::token_embedding, -1);
    for (const std::int32_t id : ids) {
      const auto at = embedding.begin() + static_cast<std::ptrdiff_t>(id) * shape_.hidden_dim;
      hidden_.emplace_back(at, at + shape_.hidden_dim);
    }
  }

  void run_layer(int layer, ReferenceCache::Layer& cache,
                 std::vector<std::vector<std::vector<double>>>& mass) {
    auto [positions, next] = positions_of(cache.multiplicity);
    const std::size_t past = positions.size();
    Rows queries;
    for (std::size_t row = 0; row < hidden_.size(); ++row) {
      const Vector x = normed(hidden_[row], file_.values(Weight::attention_norm, layer),
                              file_.config().norm_epsilon);
      positions.push_back(next + static_cast<int>(row));
      queries.push_back(product(file_.values(Weight::wq, layer), x));
      rotate(queries.back(), shape_.head_dim, shape_.rope, positions.back());
      cache.keys.push_back(product(file_.values(Weight::wk, layer), x));
      cache.values.push_back(product(file_.values(Weight::wv, layer), x));
      cache.multiplicity.push_back(1);
    }
    Rows keys = cache.keys;
    for (std::size_t slot = 0; slot < keys.size(); ++slot) {
      rotate(keys[slot], shape_.head_dim, shape_.rope, positions[slot]);
    }
    mass.assign(static_cast<std::size_t>(shape_.query_heads), {});
    for (std::size_t row = 0; row < hidden_.size(); ++row) {
      const Vector output = attend(cache, keys, queries[row], past + row + 1, mass);
      add(hidden_[row], product(file_.values(Weight::wo, layer), output));
      run_mlp(file_, layer, hidden_[row]);
    }
  }

  Rows logits() const {
    const std::vector<float>& head = file_.values(Weight::token_embedding, -1);
    Rows rows;
    for (const Vector& row : hidden_) {
      rows.push_back(product(
          head, normed(row, file_.values(Weight::output_norm, -1), file_.config().norm_epsilon)));
    }
    return rows;
  }

 private:
  Vector attend(const ReferenceCache::Layer& cache, const Rows& keys, const Vector& query,
                std::size_t seen, std::vector<std::vector<std::vector<double>>>& mass) const {
    const auto dim = static_cast<std::size_t>(shape_.head_dim);
    Vector output(query.size(), 0.0);
    for (int head = 0; head < shape_.query_heads; ++head) {
      const std::size_t q = static_cast<std::size_t>(head) * dim;
      const std::size_t k = static_cast<std::size_t>(shape_.kv_head_of(head)) * dim;
      Vector one(seen, 0.0);
      double total = 0;
      for (std::size_t slot = 0; slot < seen; ++slot) {
        double logit = 0;
        for (std::size_t c = 0; c < dim; ++c) {
          logit += query[q + c] * keys[slot][k + c];
        }
        one[slot] = std::exp(logit * shape_.attention_scale);
        total += cache.multiplicity[slot] * one[slot];
      }
      Vector row(keys.size(), 0.0);
      for (std::size_t slot = 0; slot < seen; ++slot) {
        for (std::size_t c = 0; c < dim; ++c) {
          output[q + c] += one[slot] / total * cache.values[slot][k + c];
        }
        row[slot] = cache.multiplicity[slot] * one[slot] / total;
      }
      mass[static_cast<std::size_t>(head)].push_back(row);
    }
    return output;
  }

  const FakeModelFile& file_;
  const ModelShape& shape_;
  Rows hidden_;
};

double cross_entropy(const Vector& logits, int target) {
  double total = 0;
  for (const double logit : logits) {
    total += std::exp(logit);
  }
  return std::log(total) - logits[static_cast<std::size_t>(target)];
}

}  // namespace

ReferenceChunk reference_chunk(const FakeModelFile& file, const ReferenceCache& cache,
                               std::span<const std::int32_t> ids) {
  ReferenceChunk result;
  result.cache = cache;
  result.cache.layers.resize(static_cast<std::size_t>(file.config().shape.layers));
  Chunk chunk(file, ids);
  for (std::size_t layer = 0; layer < result.cache.layers.size(); ++layer) {
    result.mass.emplace_back();
    chunk.run_layer(static_cast<int>(layer), result.cache.layers[layer], result.mass.back());
  }
  result.logits = chunk.logits();
  for (std::size_t row = 0; row + 1 < ids.size(); ++row) {
    result.loss += cross_entropy(result.logits[row], ids[row + 1]);
  }
  result.loss /= static_cast<double>(ids.size()) - 1;
  return result;
}

}  // namespace kvscope::test
