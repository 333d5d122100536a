#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "kvscope/evidence/layer_evidence.h"
#include "registry/arguments.h"

namespace kvscope::detail {

/// Real slots of a layer whose heads all hold the same tokens; cells beyond are never looked at.
int live_slots(const LayerEvidence& evidence);

/// The first `tokens` columns of a plane [..., slots].
at::Tensor columns(const at::Tensor& plane, int tokens);
/// The first `tokens` rows of [heads, slots, head_dim].
at::Tensor rows(const at::Tensor& tensor, int tokens);

/// Throws Error{failed} naming the first token of [kv_heads, tokens, head_dim] whose row, a `name`,
/// holds NaN or infinity.
void check_finite(const at::Tensor& rows, const char* name, int layer);

/// [query_heads, ...] -> [kv_heads, ...] by "mean", "max" or "sum" over each GQA group.
at::Tensor reduce_group(const at::Tensor& per_query_head, int kv_heads, const std::string& rule);

/// Smooths [heads, tokens] along tokens: "avg" (zeros outside count, the divisor is always
/// `kernel`) or "max", stride 1, odd kernel.
at::Tensor pool_tokens(const at::Tensor& scores, int kernel, const std::string& rule);

/// [heads, candidates], which begin at token `first`, widened to [heads, tokens]; the columns
/// before and behind hold NaN.
at::Tensor widen(const at::Tensor& candidates, int tokens, int first = 0);

/// [kv_heads, tokens] of NaN: nothing to score.
at::Tensor unscored(const LayerEvidence& evidence, int tokens);

/// The named rule that makes one score of a group's query heads.
ParameterInfo reduce_parameter();

}  // namespace kvscope::detail
