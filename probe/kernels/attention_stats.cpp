#include "kvscope/kernels/attention_stats.h"

#include <fmt/format.h>

#include <algorithm>

#include "attention_checks.h"
#include "attention_impl.h"
#include "cuda_library.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr const char* where = "attention_stats";

}  // namespace

namespace detail {

std::int64_t rows_that_see(std::int64_t rows, std::int64_t tokens,
                           const AttentionStatsOptions& options) {
  if (tokens == 0 || options.window == 0) {
    return tokens == 0 ? 0 : rows;
  }
  return std::clamp<std::int64_t>(tokens - 1 + options.window - options.first_query, 0, rows);
}

}  // namespace detail

AttentionStats attention_stats(const at::Tensor& queries, const at::Tensor& keys,
                               const at::Tensor& lse, const AttentionStatsOptions& options) {
  detail::check_queries_and_keys(queries, keys, where);
  detail::check_stats_options(options, where);
  KVSCOPE_CHECK(
      queries.scalar_type() == at::kFloat, ErrorCode::usage,
      fmt::format("queries and keys must be float32, are {}", c10::toString(queries.scalar_type())),
      where);
  detail::check_plane(lse, queries.size(0), queries.size(1), at::kFloat, "lse", where);
  KVSCOPE_CHECK(!lse.defined() || lse.device() == queries.device(), ErrorCode::usage,
                "lse is on another device than the queries", where);
  const at::Tensor dense_queries = detail::with_dense_rows(queries);
  const at::Tensor dense_keys = detail::with_dense_rows(keys);
  if (queries.is_cuda()) {
    return detail::attention_stats_cuda(dense_queries, dense_keys, lse, options);
  }
  KVSCOPE_CHECK(queries.is_cpu(), ErrorCode::unsupported,
                fmt::format("no kernel for device {}", queries.device().str()), where,
                "pass --device cpu or --device cuda");
  return detail::attention_stats_cpu(dense_queries, dense_keys, lse, options, tile::functions());
}

}  // namespace kvscope
