#include "needle_model.h"

#include <cmath>
#include <fstream>
#include <vector>

#include "gguf_writer.h"
#include "tiny_model.h"

namespace kvscope::test {
namespace {

constexpr std::uint64_t hidden = 64;
constexpr std::uint64_t head_dim = 32;
constexpr std::uint64_t vocabulary = 300;
constexpr std::uint64_t mlp = 8;

/// Directions of the hidden state. Every token has exactly two, so that all are normalised alike.
enum Feature : std::uint64_t {
  constant = 0,
  filler = 1,
  needle = 2,
  ask = 3,
  digit = 10,
  answer = 20,
  none = 30
};

/// What RMSNorm makes of a feature of a token: 1 / sqrt(2 / hidden).
const double normalised = std::sqrt(static_cast<double>(hidden) / 2);

/// Channels in half-split order that turn most slowly.
constexpr std::uint64_t needle_channel = head_dim / 2 - 1;
constexpr std::uint64_t filler_channel = head_dim / 2 - 2;

class Matrix {
 public:
  Matrix(std::uint64_t rows, std::uint64_t columns) : columns_(columns), values_(rows * columns) {}
  void set(std::uint64_t row, std::uint64_t column, double value) {
    values_[row * columns_ + column] = static_cast<float>(value);
  }
  std::string bytes() const {
    return {reinterpret_cast<const char*>(values_.data()), values_.size() * sizeof(float)};
  }

 private:
  std::uint64_t columns_;
  std::vector<float> values_;
};

/// Row of a head's channel in a GGUF file, where the two channels of a band are neighbours.
std::uint64_t stored_row(std::uint64_t head, std::uint64_t channel) {
  const std::uint64_t half = head_dim / 2;
  return head * head_dim + (channel < half ? 2 * channel : 2 * (channel - half) + 1);
}

Matrix embedding() {
  Matrix matrix(vocabulary, hidden);
  for (std::uint64_t token = 0; token < vocabulary; ++token) {
    const auto letter = static_cast<std::int32_t>(token);
    if (letter >= needle_token('0') && letter <= needle_token('9')) {
      matrix.set(token, needle, 1);
      matrix.set(token, digit + static_cast<std::uint64_t>(letter - needle_token('0')), 1);
    } else {
      matrix.set(token, constant, 1);
      matrix.set(token, letter == needle_token('?') ? ask : filler, 1);
    }
  }
  return matrix;
}

Matrix queries() {
  Matrix matrix(hidden, hidden);
  const double length = needle_logit * std::sqrt(static_cast<double>(head_dim)) / needle_key_norm;
  matrix.set(stored_row(0, needle_channel), ask, length / normalised);
  return matrix;
}

Matrix keys() {
  Matrix matrix(hidden, hidden);
  matrix.set(stored_row(0, needle_channel), needle, needle_key_norm / normalised);
  for (std::uint64_t head = 0; head < 2; ++head) {
    matrix.set(stored_row(head, filler_channel), filler, filler_key_norm / normalised);
  }
  return matrix;
}

/// Head 0's values: channels 0 to 9 the digit, 10 nothing found.
Matrix values() {
  Matrix matrix(hidden, hidden);
  for (std::uint64_t d = 0; d < 10; ++d) {
    matrix.set(d, digit + d, 1);
  }
  matrix.set(10, filler, 1);
  return matrix;
}

Matrix output() {
  Matrix matrix(hidden, hidden);
  for (std::uint64_t d = 0; d < 10; ++d) {
    matrix.set(answer + d, d, 1);
  }
  matrix.set(none, 10, 1);
  return matrix;
}

Matrix head() {
  Matrix matrix(vocabulary, hidden);
  for (std::uint64_t d = 0; d < 10; ++d) {
    matrix.set(static_cast<std::uint64_t>(needle_token('0')) + d, answer + d, 1);
  }
  matrix.set(static_cast<std::uint64_t>(needle_token('-')), none, 1);
  return matrix;
}

Matrix ones() {
  Matrix matrix(hidden, 1);
  for (std::uint64_t row = 0; row < hidden; ++row) {
    matrix.set(row, 0, 1);
  }
  return matrix;
}

}  // namespace

void write_needle_model(const std::string& path) {
  GgufWriter writer;
  writer.text("general.architecture", "llama");
  writer.text("general.name", "needle");
  const auto size = [&](const char* key, std::uint64_t value) {
    writer.integer(std::string("llama.") + key, static_cast<std::uint32_t>(value));
  };
  size("block_count", 1);
  size("embedding_length", hidden);
  size("feed_forward_length", mlp);
  size("attention.head_count", 2);
  size("attention.head_count_kv", 2);
  size("context_length", 2048);
  size("rope.dimension_count", head_dim);
  writer.real("llama.rope.freq_base", 1e6f);
  writer.real("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  add_tiny_tokenizer(writer);
  const auto add = [&](const std::string& name, const std::vector<std::uint64_t>& shape,
                       const Matrix& matrix) {
    constexpr std::uint32_t type_f32 = 0;
    writer.tensor(name + ".weight", shape, type_f32, matrix.bytes());
  };
  add("token_embd", {vocabulary, hidden}, embedding());
  add("output_norm", {hidden}, ones());
  add("output", {vocabulary, hidden}, head());
  add("blk.0.attn_norm", {hidden}, ones());
  add("blk.0.attn_q", {hidden, hidden}, queries());
  add("blk.0.attn_k", {hidden, hidden}, keys());
  add("blk.0.attn_v", {hidden, hidden}, values());
  add("blk.0.attn_output", {hidden, hidden}, output());
  add("blk.0.ffn_norm", {hidden}, ones());
  add("blk.0.ffn_gate", {mlp, hidden}, Matrix(mlp, hidden));
  add("blk.0.ffn_up", {mlp, hidden}, Matrix(mlp, hidden));
  add("blk.0.ffn_down", {hidden, mlp}, Matrix(hidden, mlp));
  std::ofstream(path, std::ios::binary) << writer.bytes();
}

}  // namespace kvscope::test
