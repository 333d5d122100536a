#include <fmt/format.h>

#include <vector>

#include "attention_checks.h"
#include "attention_impl.h"
#include "attention_inputs.h"
#include "kvscope/core/error.h"

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
    streamed_forward(in, result, nullptr, nullptr, functions);
  }
  return result;
}

}  // namespace detail

AttentionResult attention_with_lse(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& multiplicity,
                                   const at::Tensor& length, const AttentionOptions& options) {
  constexpr const char* where = "attention_with_lse";
  detail::check_queries_and_keys(queries, keys, where, true);
  detail::check_values(values, keys, where);
  detail::check_plane(multiplicity, keys.size(0), keys.size(1), at::kFloat, "multiplicity", where);
  detail::check_plane(length, -1, keys.size(0), at::kInt, "length", where);
  KVSCOPE_CHECK(options.softcap >= 0 && options.window >= 0 && options.first_query >= 0 &&
                    options.causal_tail >= 0 && options.causal_tail <= keys.size(1),
                ErrorCode::usage, "an attention option is out of range", where);
  KVSCOPE_CHECK(options.window == 0 || !(multiplicity.defined() || length.defined()),
                ErrorCode::unsupported, "a sliding window over a compressed cache", where,
                "compress only the layers without a sliding window");
  if (!queries.is_cpu()) {
    return detail::attention_with_lse_plain(queries, keys, values, multiplicity, length, options);
  }
  const at::Tensor live = length.defined() ? length.contiguous() : length;
  for (std::int64_t head = 0; live.defined() && head < keys.size(0); ++head) {
    const std::int64_t count = live.const_data_ptr<std::int32_t>()[head];
    KVSCOPE_CHECK(
        count >= 0 && count <= keys.size(1), ErrorCode::usage,
        fmt::format("length {} of KV head {} is not within {} slots", count, head, keys.size(1)),
        where);
  }
  const auto rows = queries.size(1);
  AttentionResult result = detail::attention_with_lse_cpu(
      detail::with_dense_rows(queries.to(at::kFloat)), detail::cache_operand(keys, rows),
      detail::cache_operand(values, rows), multiplicity, live, options, tile::functions());
  result.output = result.output.to(queries.scalar_type());
  return result;
}

}  // namespace kvscope
