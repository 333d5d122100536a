#pragma once

#include "kvscope/core/tokens.h"
#include "kvscope/model/model_file.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::detail {

/// Throws Error{usage} unless a run of the prompt fits the model and its options make sense.
void check_run(const ModelConfig& config, const TokenTable& prompt, const LiveRunOptions& options);

}  // namespace kvscope::detail
