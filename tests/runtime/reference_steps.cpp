#include "reference_steps.h"

#include <cmath>

namespace kvscope::test {

Vector product(const std::vector<float>& matrix, const Vector& x) {
  Vector result(matrix.size() / x.size(), 0.0);
  for (std::size_t row = 0; row < result.size(); ++row) {
    for (std::size_t column = 0; column < x.size(); ++column) {
      result[row] += static_cast<double>(matrix[row * x.size() + column]) * x[column];
    }
  }
  return result;
}

Vector normed(const Vector& x, const std::vector<float>& weight, double epsilon) {
  double squares = 0;
  for (const double value : x) {
    squares += value * value;
  }
  const double factor = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  Vector result(x.size());
  for (std::size_t channel = 0; channel < x.size(); ++channel) {
    result[channel] = x[channel] * factor * weight[channel];
  }
  return result;
}

void rotate(Vector& heads, int head_dim, const RopeParameters& rope, int position) {
  const auto half = static_cast<std::size_t>(rope.dims / 2);
  for (std::size_t head = 0; head < heads.size(); head += static_cast<std::size_t>(head_dim)) {
    for (std::size_t pair = 0; pair < half; ++pair) {
      const double angle = position * rope.inverse_frequency[pair];
      const double first = heads[head + pair];
      const double second = heads[head + pair + half];
      heads[head + pair] = first * std::cos(angle) - second * std::sin(angle);
      heads[head + pair + half] = second * std::cos(angle) + first * std::sin(angle);
    }
  }
}

void add(Vector& hidden, const Vector& x) {
  for (std::size_t channel = 0; channel < hidden.size(); ++channel) {
    hidden[channel] += x[channel];
  }
}

void run_mlp(const FakeModelFile& file, int layer, Vector& hidden) {
  const Vector x = normed(hidden, file.values(Weight::mlp_norm, layer), file.config().norm_epsilon);
  Vector gate = product(file.values(Weight::mlp_gate, layer), x);
  const Vector up = product(file.values(Weight::mlp_up, layer), x);
  for (std::size_t channel = 0; channel < gate.size(); ++channel) {
    gate[channel] = gate[channel] / (1.0 + std::exp(-gate[channel])) * up[channel];
  }
  add(hidden, product(file.values(Weight::mlp_down, layer), gate));
}

}  // namespace kvscope::test
