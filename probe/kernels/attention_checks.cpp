#include "attention_checks.h"

#include <fmt/format.h>

#include "attention_inputs.h"
#include "kvscope/core/error.h"
#include "tile/tasks.h"

namespace kvscope::detail {
namespace {

std::string sizes_of(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes().begin(), tensor.sizes().end(), ", "));
}

}  // namespace

void check_queries_and_keys(const at::Tensor& queries, const at::Tensor& keys, const char* function,
                            bool any_cache) {
  KVSCOPE_CHECK(queries.defined() && keys.defined() && queries.dim() == 3 && keys.dim() == 3,
                ErrorCode::usage, "queries and keys must be [heads, tokens, head_dim]", function);
  KVSCOPE_CHECK(queries.scalar_type() == keys.scalar_type() ||
                    (any_cache && queries.scalar_type() == at::kFloat),
                ErrorCode::usage, "queries and keys differ in element type", function);
  KVSCOPE_CHECK(
      queries.device() == keys.device(), ErrorCode::usage,
      fmt::format("queries are on {}, keys on {}", queries.device().str(), keys.device().str()),
      function);
  KVSCOPE_CHECK(
      queries.size(2) == keys.size(2) && queries.size(2) > 0, ErrorCode::usage,
      fmt::format("head_dim differs: queries {}, keys {}", sizes_of(queries), sizes_of(keys)),
      function);
  KVSCOPE_CHECK(
      keys.size(0) > 0 && queries.size(0) > 0 && queries.size(0) % keys.size(0) == 0,
      ErrorCode::usage,
      fmt::format("{} query heads do not divide into {} KV heads", queries.size(0), keys.size(0)),
      function);
  KVSCOPE_CHECK(queries.size(0) / keys.size(0) <= tile::max_group, ErrorCode::unsupported,
                fmt::format("more than {} query heads of one KV head", tile::max_group), function);
}

void check_plane(const at::Tensor& tensor, std::int64_t rows, std::int64_t columns,
                 at::ScalarType type, const char* name, const char* function) {
  if (!tensor.defined()) {
    return;
  }
  KVSCOPE_CHECK(tensor.scalar_type() == type, ErrorCode::usage,
                fmt::format("{} must be {}, is {}", name, c10::toString(type),
                            c10::toString(tensor.scalar_type())),
                function);
  const bool fits = rows < 0
                        ? tensor.dim() == 1 && tensor.size(0) == columns
                        : tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns;
  KVSCOPE_CHECK(
      fits, ErrorCode::usage,
      rows < 0 ? fmt::format("{} must be [{}], is {}", name, columns, sizes_of(tensor))
               : fmt::format("{} must be [{}, {}], is {}", name, rows, columns, sizes_of(tensor)),
      function);
}

at::Tensor check_forward(const at::Tensor& queries, const at::Tensor& keys,
                         const at::Tensor& values, const at::Tensor& multiplicity,
                         const at::Tensor& length, const AttentionOptions& options,
                         const char* function) {
  check_queries_and_keys(queries, keys, function, true);
  KVSCOPE_CHECK(values.defined() && values.dim() == 3 && values.size(0) == keys.size(0) &&
                    values.size(1) == keys.size(1) && values.device() == keys.device() &&
                    values.scalar_type() == keys.scalar_type(),
                ErrorCode::usage, "values must be [kv_heads, tokens, head_dim] like the keys",
                function);
  check_plane(multiplicity, keys.size(0), keys.size(1), at::kFloat, "multiplicity", function);
  check_plane(length, -1, keys.size(0), at::kInt, "length", function);
  const bool slots = multiplicity.defined() || length.defined();
  KVSCOPE_CHECK(options.softcap >= 0 && options.window >= 0 && options.first_query >= 0 &&
                    options.causal_tail >= 0 && (!slots || options.causal_tail <= keys.size(1)),
                ErrorCode::usage, "an attention option is out of range", function);
  KVSCOPE_CHECK(options.window == 0 || !slots, ErrorCode::unsupported,
                "a sliding window over a compressed cache", function,
                "compress only the layers without a sliding window");
  const at::Tensor live = length.defined() ? length.cpu().contiguous() : length;
  for (std::int64_t head = 0; live.defined() && head < keys.size(0); ++head) {
    const std::int64_t count = live.const_data_ptr<std::int32_t>()[head];
    KVSCOPE_CHECK(
        count >= 0 && count <= keys.size(1), ErrorCode::usage,
        fmt::format("length {} of KV head {} is not within {} slots", count, head, keys.size(1)),
        function);
  }
  return live;
}

void check_stats_options(const AttentionStatsOptions& options, const char* function) {
  KVSCOPE_CHECK(options.softcap >= 0 && options.window >= 0 && options.first_query >= 0,
                ErrorCode::usage, "softcap, window and first_query must not be negative", function);
  for (const int window : options.windows) {
    KVSCOPE_CHECK(window > 0, ErrorCode::usage,
                  fmt::format("an observation window must be positive, is {}", window), function);
  }
}

at::Tensor cache_operand(const at::Tensor& tensor, std::int64_t rows) {
  const bool as_stored = tensor.scalar_type() == at::kBFloat16 && rows <= few_rows;
  return with_dense_rows(as_stored ? tensor : tensor.to(at::kFloat));
}

at::Tensor with_dense_rows(const at::Tensor& tensor) {
  const std::int64_t last = tensor.dim() - 1;
  return tensor.size(last) == 1 || tensor.stride(last) == 1 ? tensor : tensor.contiguous();
}

}  // namespace kvscope::detail
