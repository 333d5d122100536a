#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kvscope/kernels/attention_stats.h"
#include "packed_keys.h"
#include "tile/tasks.h"

namespace kvscope::detail {

/// Rows up to which K and V are streamed as they lie instead of packed.
inline constexpr std::int64_t few_rows = 4;

/// Keys [first, end) that each query of one KV head sees.
struct VisibleKeys {
  std::vector<int> first;
  std::vector<int> end;
};

/// What the inner loops of a forward pass read, on the CPU.
struct ForwardInputs {
  ForwardInputs(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                const at::Tensor& multiplicity, const at::Tensor& length,
                const AttentionOptions& options);

  std::int64_t query_heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t rows = 0;
  std::int64_t tokens = 0;
  std::int64_t head_dim = 0;
  std::int64_t value_dim = 0;  ///< 0: LSE alone
  std::int64_t group = 0;
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
  tile::LogitRule rule;
  std::vector<float> bias;  ///< log2 of the multiplicity, [kv_heads, bias_stride], or empty
  std::int64_t bias_stride = 0;
  std::vector<VisibleKeys> visible;  ///< [kv_heads]
};

/// Room for the output, stored token by token, and the LSE.
AttentionResult empty_result(const ForwardInputs& in);

/// The task of rows [first_row, first_row + rows) of `heads` query heads of one KV head. Scratch is
/// left to the caller.
tile::ForwardTask forward_task(const ForwardInputs& in, const AttentionResult& result,
                               const PackedKeys& packed, std::int64_t first_head,
                               std::int64_t heads, std::int64_t first_row, std::int64_t rows);

/// What streamed rows leave behind besides the result. Buffers only grow.
struct StreamedWeights {
  std::vector<float> weights;  ///< [rows][kv_heads][parts][group][row_keys]
  std::vector<float> maxima;   ///< likewise of groups of them: [...][row_maxima]
  std::vector<float> factors;  ///< [rows][query_heads][parts] weight times factor: probability
  std::int64_t parts = 0;
};

/// What is wanted of streamed rows besides the result.
struct StreamedWatch {
  StreamedWeights* kept = nullptr;
  bool maxima = false;                            ///< whether kept->maxima are wanted
  float* entropy = nullptr;                       ///< [query_heads, rows]
  std::function<void(std::int64_t head)> joined;  ///< called when a query head's rows are done
};

/// Forward pass of a few rows.
void streamed_forward(const ForwardInputs& in, const AttentionResult& result,
                      const StreamedWatch& watch, const tile::Functions& functions);

}  // namespace kvscope::detail
