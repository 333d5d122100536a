#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/core/calibration.h"
#include "kvscope/methods/method.h"

namespace kvscope::detail {

/// A calibration that a method reads, and what to tell the user if it does not fit the run.
class Calibrated {
 public:
  /// Throws Error{usage} if no file was named, else as `read_calibration`.
  Calibrated(const std::string& method, const std::string& path);

  /// Throws Error{usage} unless it was measured on the run's weights.
  void check_model(const RunPlan& plan) const;
  /// Throws Error{missing_data} if it lacks the array, Error{corrupt_file} if its shape differs.
  void check_array(const char* name, const std::vector<std::int64_t>& shape) const;
  /// One layer of an array of three axes, which must be there: [heads, numbers].
  at::Tensor plane(const char* name, int layer) const;

 private:
  std::string path_;
  Calibration calibration_;
};

}  // namespace kvscope::detail
