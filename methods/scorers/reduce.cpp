#include "scorers/reduce.h"

#include <ATen/ops/avg_pool1d.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/max_pool1d.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kvscope/core/error.h"

namespace kvscope::detail {

int live_slots(const LayerEvidence& evidence) {
  const SlotTable& slots = evidence.slots();
  return slots.length.empty() ? slots.slots : slots.length.front();
}

at::Tensor columns(const at::Tensor& plane, int tokens) {
  return plane.narrow(-1, 0, tokens);
}

at::Tensor rows(const at::Tensor& tensor, int tokens) {
  return tensor.narrow(1, 0, tokens);
}

void check_finite(const at::Tensor& rows, const char* name, int layer) {
  const at::Tensor finite = rows.isfinite().all(-1).cpu().contiguous();
  const bool* cell = finite.const_data_ptr<bool>();
  const bool* bad = std::find(cell, cell + finite.numel(), false);
  const std::int64_t at = bad - cell;
  KVSCOPE_CHECK(at == finite.numel(), ErrorCode::failed,
                fmt::format("the {} of token {} holds NaN or infinity", name, at % rows.size(1)),
                fmt::format("layer {}, KV head {}", layer, at / rows.size(1)),
                "check the capture for NaN in keys and values: kvscope check");
}

at::Tensor reduce_group(const at::Tensor& per_query_head, int kv_heads, const std::string& rule) {
  const at::Tensor grouped =
      per_query_head.unflatten(0, {kv_heads, per_query_head.size(0) / kv_heads});
  if (rule == "max") {
    return grouped.amax(1);
  }
  return rule == "sum" ? grouped.sum(1) : grouped.mean(1);
}

at::Tensor pool_tokens(const at::Tensor& scores, int kernel, const std::string& rule) {
  if (kernel == 1) {
    return scores;
  }
  if (rule == "max") {
    return at::max_pool1d(scores, kernel, 1, kernel / 2);
  }
  return at::avg_pool1d(scores, kernel, 1, kernel / 2, /*ceil_mode=*/false,
                        /*count_include_pad=*/true);
}

at::Tensor widen(const at::Tensor& candidates, int tokens, int first) {
  at::Tensor wide = at::full({candidates.size(0), tokens}, std::numeric_limits<float>::quiet_NaN(),
                             candidates.options());
  wide.narrow(1, first, candidates.size(1)).copy_(candidates);
  return wide;
}

at::Tensor unscored(const LayerEvidence& evidence, int tokens) {
  return at::full({evidence.shape().kv_heads, tokens}, std::numeric_limits<float>::quiet_NaN());
}

ParameterInfo reduce_parameter() {
  return choice_parameter("reduce", "mean|max|sum",
                          "how the query heads of a group make one score");
}

}  // namespace kvscope::detail
