#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace kvscope::detail {

/// Remembers where a run's numbers first were NaN or infinite.
class FiniteCheck {
 public:
  /// `what`, of a layer or of none (-1), at a step (0 = prefill). Undefined tensors pass.
  void see(const at::Tensor& values, const char* what, int layer, int step);
  /// In words; empty: nowhere so far.
  const std::string& first() const { return first_; }

 private:
  std::string first_;
};

}  // namespace kvscope::detail
