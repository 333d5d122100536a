#pragma once

#include "kvscope/evidence/model_run.h"

namespace kvscope::detail {

/// Reads what is left of the prompt in one pass; nothing if it was read already.
void read_prompt(ModelRun& run, const ForwardRequest& request);

}  // namespace kvscope::detail
