#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope {

/// Row-major matrix of doubles for building test weights.
struct Matrix {
  int rows = 0;
  int columns = 0;
  std::vector<double> data;
  Matrix(int r, int c)
      : rows(r), columns(c), data(static_cast<std::size_t>(r) * static_cast<std::size_t>(c), 0.0) {}
  double& at(int r, int c) {
    return data[static_cast<std::size_t>(r) * static_cast<std::size_t>(columns) +
                static_cast<std::size_t>(c)];
  }
  double at(int r, int c) const {
    return data[static_cast<std::size_t>(r) * static_cast<std::size_t>(columns) +
                static_cast<std::size_t>(c)];
  }
};

/// Normal numbers from a 64-bit generator of our own.
class Gauss {
 public:
  explicit Gauss(std::uint64_t seed) : state_(seed * 2 + 1) {}
  double operator()() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  double uniform() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  std::uint64_t state_;
};

inline Matrix gaussian(int rows, int columns, std::uint64_t seed) {
  Matrix matrix(rows, columns);
  Gauss gauss(seed);
  for (int i = 0; i < 20; ++i) {
    gauss();
  }
  for (double& value : matrix.data) {
    value = gauss();
  }
  return matrix;
}

/// Multiplies rows (left) or columns by a random Householder reflector: orthogonal.
inline void reflect(Matrix& matrix, bool left, std::uint64_t seed) {
  const int n = left ? matrix.rows : matrix.columns;
  const int other = left ? matrix.columns : matrix.rows;
  const Matrix v = gaussian(1, n, seed);
  double norm = 0;
  for (const double x : v.data) {
    norm += x * x;
  }
  for (int j = 0; j < other; ++j) {
    double dot = 0;
    for (int i = 0; i < n; ++i) {
      dot += v.at(0, i) * (left ? matrix.at(i, j) : matrix.at(j, i));
    }
    for (int i = 0; i < n; ++i) {
      (left ? matrix.at(i, j) : matrix.at(j, i)) -= 2 * dot / norm * v.at(0, i);
    }
  }
}

/// Q1 diag(singular) Q2^T with random orthogonal Q1, Q2.
inline Matrix with_spectrum(int rows, int columns, const std::vector<double>& singular,
                            std::uint64_t seed) {
  Matrix matrix(rows, columns);
  for (std::size_t i = 0; i < singular.size(); ++i) {
    matrix.at(static_cast<int>(i), static_cast<int>(i)) = singular[i];
  }
  for (std::uint64_t i = 0; i < 3; ++i) {
    reflect(matrix, true, seed + i);
    reflect(matrix, false, seed + 10 + i);
  }
  return matrix;
}

/// A model that is only projections. Weights not set are absent.
class FakeModel : public ModelFile {
 public:
  FakeModel(int layers, int query_heads, int kv_heads, int head_dim, int hidden_dim) {
    config_.architecture = "llama";
    config_.name = "fake";
    config_.weights_dtype = "F32";
    config_.shape.layers = layers;
    config_.shape.query_heads = query_heads;
    config_.shape.kv_heads = kv_heads;
    config_.shape.head_dim = head_dim;
    config_.shape.hidden_dim = hidden_dim;
    config_.shape.vocabulary = 10;
    config_.shape.attention_scale = 0.125;
    config_.shape.rope.dims = head_dim;
    for (int i = 0; i < head_dim / 2; ++i) {
      config_.shape.rope.inverse_frequency.push_back(1.0 / (i + 1));
    }
  }

  void set(Weight weight, int layer, Matrix matrix) {
    weights_.insert_or_assign({weight, layer}, std::move(matrix));
  }
  void remove(Weight weight, int layer) { weights_.erase({weight, layer}); }
  Matrix& matrix(Weight weight, int layer) { return weights_.at({weight, layer}); }
  void refuse(Weight weight, int layer, ErrorCode code) { refused_[{weight, layer}] = code; }
  std::string dtype = "F32";

  /// Gaussian projections everywhere.
  void fill(std::uint64_t seed) {
    const ModelShape& s = config_.shape;
    for (int layer = 0; layer < s.layers; ++layer) {
      const auto base = seed + 100 * static_cast<std::uint64_t>(layer);
      set(Weight::wq, layer, gaussian(s.query_heads * s.head_dim, s.hidden_dim, base + 1));
      set(Weight::wk, layer, gaussian(s.kv_heads * s.head_dim, s.hidden_dim, base + 2));
      set(Weight::wv, layer, gaussian(s.kv_heads * s.head_dim, s.hidden_dim, base + 3));
      set(Weight::wo, layer, gaussian(s.hidden_dim, s.query_heads * s.head_dim, base + 4));
    }
  }

  const ModelConfig& config() const override { return config_; }
  std::string hash() const override { return "0011223344556677"; }
  bool has(Weight weight, int layer) const override { return weights_.count({weight, layer}) > 0; }
  std::pair<std::int64_t, std::int64_t> weight_shape(Weight weight, int layer) const override {
    const Matrix& matrix = weights_.at({weight, layer});
    return {matrix.rows, matrix.columns};
  }
  std::string weight_dtype(Weight, int) const override { return dtype; }
  void read(Weight weight, int layer, std::span<float> out, int) const override {
    const auto refused = refused_.find({weight, layer});
    if (refused != refused_.end()) {
      throw Error(refused->second, "block type IQ2_XXS is not decoded", "fake");
    }
    const Matrix& matrix = weights_.at({weight, layer});
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<float>(matrix.data[i]);
    }
  }
  std::shared_ptr<const Tokenizer> tokenizer() const override { return nullptr; }
  std::vector<std::string> describe() const override { return {}; }

 private:
  ModelConfig config_;
  std::map<std::pair<Weight, int>, Matrix> weights_;
  std::map<std::pair<Weight, int>, ErrorCode> refused_;
};

}  // namespace kvscope
