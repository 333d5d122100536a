#pragma once

#include <ATen/core/Tensor.h>

#include "kvscope/core/tokens.h"

namespace kvscope::detail {

/// What attention is added up by: the four segments (template, context, question, generated), then
/// the first tokens.
inline constexpr int segment_columns = 5;

/// 1 where a token belongs to a column: [tokens, 5] float32; tokens behind the prompt are
/// generated.
at::Tensor segment_indicator(const TokenTable& prompt, int tokens);

}  // namespace kvscope::detail
