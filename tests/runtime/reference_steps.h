#pragma once

#include <vector>

#include "fake_model.h"

namespace kvscope::test {

// Row-wise steps of a layer in float64 and plain loops, shared by the references.

using Vector = std::vector<double>;

/// matrix [rows, x.size()] times x.
Vector product(const std::vector<float>& matrix, const Vector& x);
/// x / rms(x) * weight
Vector normed(const Vector& x, const std::vector<float>& weight, double epsilon);
/// Rotates each head of joined heads, half-split pairs.
void rotate(Vector& heads, int head_dim, const RopeParameters& rope, int position);
/// hidden += x
void add(Vector& hidden, const Vector& x);
/// hidden += MLP(norm(hidden))
void run_mlp(const FakeModelFile& file, int layer, Vector& hidden);

}  // namespace kvscope::test
