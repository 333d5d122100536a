#pragma once

#include <string>
#include <vector>

#include "kvscope/capture/request.h"

namespace kvscope::detail {

/// Where a hook point's prompt rows are stored: "layers/LLL/NAME", or "model/NAME" for a point of
/// the model.
std::string hook_dataset(HookPoint point, int layer);

/// Whether the prompt rows of a point are stored as hook rows; those of the profile's own tensors
/// are not.
bool stores_hook_rows(HookPoint point);
/// Whether a step's row of a point is stored as a hook row, likewise.
bool stores_hook_steps(HookPoint point);

/// Datasets of the request's hook points, and of what the prompt's logits end in.
std::vector<DatasetSpec> hook_datasets(const CaptureRequest& request, const ModelShape& shape,
                                       int prompt_tokens, ElementType cache_type);

}  // namespace kvscope::detail
