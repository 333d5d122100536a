#include "segments.h"

#include <ATen/ops/zeros.h>

#include "datasets.h"

namespace kvscope::detail {

at::Tensor segment_indicator(const TokenTable& prompt, int tokens) {
  at::Tensor indicator = at::zeros({tokens, segment_columns}, at::kFloat);
  float* row = indicator.mutable_data_ptr<float>();
  for (int token = 0; token < tokens; ++token, row += segment_columns) {
    const Segment segment = token < prompt.prompt_tokens
                                ? prompt.segment[static_cast<std::size_t>(token)]
                                : Segment::generated;
    row[static_cast<int>(segment)] = 1;
    row[segment_columns - 1] = token < sink_tokens ? 1 : 0;
  }
  return indicator;
}

}  // namespace kvscope::detail
