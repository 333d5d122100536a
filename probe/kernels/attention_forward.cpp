#include <algorithm>
#include <vector>

#include "attention_checks.h"
#include "attention_impl.h"
#include "attention_inputs.h"

namespace kvscope {
namespace detail {
namespace {

void packed_forward(const ForwardInputs& in, const AttentionResult& result,
                    const tile::Functions& functions) {
  const PackedKeys packed = pack_keys(in.keys, in.rule.key_factor, functions);
  const std::int64_t blocks = (in.rows + tile::forward_rows - 1) / tile::forward_rows;
  run_tasks(in.kv_heads * blocks, [&](std::int64_t index) {
    // Late queries see most keys: their tasks come first.
    const std::int64_t first_row = (blocks - 1 - index / in.kv_heads) * tile::forward_rows;
    const std::int64_t kv_head = index % in.kv_heads;
    std::vector<float> scratch(static_cast<std::size_t>(
        tile::forward_scratch(static_cast<int>(in.group), static_cast<int>(in.value_dim))));
    tile::ForwardTask task =
        forward_task(in, result, packed, kv_head * in.group, in.group, first_row,
                     std::min<std::int64_t>(tile::forward_rows, in.rows - first_row));
    task.scratch = scratch.data();
    functions.forward(task);
  });
}

}  // namespace

AttentionResult attention_with_lse_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                       const at::Tensor& values, const at::Tensor& multiplicity,
                                       const at::Tensor& length, const AttentionOptions& options,
                                       const tile::Functions& functions) {
  const ForwardInputs in(queries, keys, values, multiplicity, length, options);
  AttentionResult result = empty_result(in);
  if (in.rows > few_rows) {
    packed_forward(in, result, functions);
  } else if (in.rows > 0) {
    streamed_forward(in, result, {}, functions);
  }
  return result;
}

}  // namespace detail

AttentionResult attention_with_lse(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& multiplicity,
                                   const at::Tensor& length, const AttentionOptions& options) {
  constexpr const char* where = "attention_with_lse";
  const at::Tensor live =
      detail::check_forward(queries, keys, values, multiplicity, length, options, where);
  if (!queries.is_cpu()) {
    return detail::attention_with_lse_plain(queries, keys, values, multiplicity, length, options);
  }
  const auto rows = queries.size(1);
  AttentionResult result = detail::attention_with_lse_cpu(
      detail::with_dense_rows(queries.to(at::kFloat)), detail::cache_operand(keys, rows),
      detail::cache_operand(values, rows), multiplicity, live, options, tile::functions());
  result.output = result.output.to(queries.scalar_type());
  return result;
}

}  // namespace kvscope
