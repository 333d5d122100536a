#pragma once

#include <cstdint>
#include <string>

#include "kvscope/capture/request.h"

namespace kvscope {

/// What the machine does here and now, measured for some tens of milliseconds.
struct ComputeRates {
  double flop_per_second = 0;   ///< of a matrix product in the run's type
  double bytes_per_second = 0;  ///< of weights read by a product with one row, as in a decode step
};

/// Measures on `device` ("cpu", "cuda:N") in `dtype` ("float32", "bfloat16"), with as many threads
/// as LibTorch is set to use. Throws what LibTorch throws.
ComputeRates measure_rates(const std::string& device, const std::string& dtype);

/// The work of a run, before it.
struct RunWork {
  double prompt_flop = 0;  ///< matrices and causal attention of the prompt
  double step_bytes = 0;   ///< weights and cache that one decode step reads
  int steps = 0;           ///< planned
};

/// `matrix_weights`: elements of all layers' matrices; `head_weights`: of the matrix that gives the
/// next token. A causal prompt computes half of its attention map.
RunWork work_of(const ModelShape& shape, double matrix_weights, double head_weights,
                int prompt_tokens, int steps, double element_bytes);

/// Seconds of each part, as the rates promise them: an estimate. Files are written beside it.
struct CaptureTime {
  double prompt = 0;
  double statistics = 0;  ///< what the capture adds
  double decode = 0;
  double total() const { return prompt + statistics + decode; }
};
CaptureTime estimate_time(const RunWork& work, const CapturePrice& price,
                          const ComputeRates& rates);

}  // namespace kvscope
