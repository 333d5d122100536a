#pragma once

#include <ATen/core/Tensor.h>

#include "kvscope/evidence/layer_evidence.h"

namespace kvscope::detail {

/// Every query so far as it was before its rotation: [query_heads, tokens seen, head_dim]. Angles
/// are float32 products, as models compute them. Throws Error{missing_data} where not all queries
/// were kept, Error{unsupported} where the rotation has grown with the sequence.
at::Tensor queries_pre_rope(const LayerEvidence& evidence);

/// Rows [..., head_dim] times the mean of the rotations at the `count` positions that follow the
/// newest token's. Throws Error{unsupported} as above.
at::Tensor turned_to_future(const at::Tensor& rows, const LayerEvidence& evidence, int count);

}  // namespace kvscope::detail
