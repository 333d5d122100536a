#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kvscope/core/error.h"

namespace kvscope::test {

/// Largest |tensor - expected| of a vector of logits.
inline double worst(const at::Tensor& tensor, const std::vector<double>& expected) {
  const at::Tensor flat = tensor.to(at::kDouble).contiguous().view({-1});
  EXPECT_EQ(flat.numel(), static_cast<std::int64_t>(expected.size()));
  double difference = 0;
  for (std::int64_t cell = 0; cell < flat.numel(); ++cell) {
    const double here =
        std::abs(flat.const_data_ptr<double>()[cell] - expected[static_cast<std::size_t>(cell)]);
    difference = std::isnan(here) ? here : std::max(difference, here);
  }
  return difference;
}

inline double worst(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

inline float cell(const at::Tensor& tensor, std::initializer_list<std::int64_t> index) {
  at::Tensor at = tensor;
  for (const std::int64_t axis : index) {
    at = at.select(0, axis);
  }
  return at.item<float>();
}

/// The code of the kvscope::Error that `body` throws; -1 if none.
template <typename Body>
int error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_FALSE(error.message().empty());
    EXPECT_FALSE(error.fix().empty());
    return static_cast<int>(error.code());
  }
  return -1;
}

inline int code(ErrorCode value) {
  return static_cast<int>(value);
}

}  // namespace kvscope::test
