#pragma once

#include "checked_json.h"
#include "kvscope/core/shape.h"
#include "kvscope/model/model_file.h"

namespace kvscope {

/// The rotations in config.json, of transformers 4 (rope_theta, rope_scaling, rope_local_base_freq)
/// or 5 (rope_parameters, per layer type where there are two). `layer_windows` must be filled:
/// local layers of Gemma 3 are those with a window. Fills rope and layer_ropes.
void read_hf_rope(const JsonFields& fields, ModelConfig& config);

}  // namespace kvscope
