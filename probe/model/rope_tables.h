#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvscope/core/shape.h"

namespace kvscope {

/// A rotary embedding as model files describe it.
struct RopeRequest {
  std::string type = "none";  ///< none or default, linear, dynamic, llama3, yarn, longrope
  double base = 10000.0;
  int dims = 0;
  int context_length = 0;
  int original_context = 0;  ///< 0 = not given
  double factor = 1.0;       ///< longrope: context over original context where the file gives none
  std::optional<double> attention_factor;
  double low_frequency_factor = 1.0;   ///< llama3
  double high_frequency_factor = 4.0;  ///< llama3
  double beta_fast = 32.0;             ///< yarn
  double beta_slow = 1.0;              ///< yarn
  double mscale = 0.0;                 ///< yarn; 0 = not given
  double mscale_all_dim = 0.0;         ///< yarn; 0 = not given
  bool truncate = true;                ///< yarn: round the range of mixed dimensions outwards
  std::vector<double> short_factors;   ///< longrope, [dims / 2]
  std::vector<double> long_factors;    ///< longrope, [dims / 2]
  /// [dims / 2] divisors of the angles, from a tensor of the file; empty = none.
  std::vector<double> divisors;
};

/// The tables of specs/probe.md 6.5, in float64. Throws Error{unsupported} naming an unknown type,
/// Error{corrupt_file} for numbers that make no rotation.
/// Papers: Su et al. 2021 (RoPE); Peng et al. 2023 (YaRN), arXiv:2309.00071; Ding et al. 2024
/// (LongRoPE), arXiv:2402.13753.
RopeParameters make_rope(const RopeRequest& request, const std::string& where);

}  // namespace kvscope
