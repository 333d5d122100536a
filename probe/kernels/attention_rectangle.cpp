#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/isneginf.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tanh.h>

#include "kvscope/core/error.h"
#include "kvscope/kernels/attention_stats.h"

namespace kvscope {

at::Tensor attention_rectangle(const at::Tensor& queries, const at::Tensor& keys,
                               const at::Tensor& lse, int first_query, int first_key,
                               const AttentionStatsOptions& options) {
  KVSCOPE_CHECK(queries.dim() == 2 && keys.dim() == 2 && queries.size(1) == keys.size(1) &&
                    lse.dim() == 1 && lse.size(0) == queries.size(0),
                ErrorCode::usage,
                "queries must be [queries, head_dim], keys [keys, head_dim], lse [queries]",
                "attention_rectangle");
  at::Tensor logits = at::matmul(queries.to(at::kFloat), keys.to(at::kFloat).t()) * options.scale;
  if (options.softcap > 0) {
    logits = at::tanh(logits / options.softcap) * options.softcap;
  }
  const auto whole = at::TensorOptions().dtype(at::kLong).device(keys.device());
  const at::Tensor position =
      at::arange(first_query, first_query + queries.size(0), whole).unsqueeze(-1);
  const at::Tensor key = at::arange(first_key, first_key + keys.size(0), whole);
  const at::Tensor row_lse = lse.to(at::kFloat).unsqueeze(-1);
  const at::Tensor blind = at::isneginf(row_lse);
  at::Tensor hidden = (key > position) | blind;
  if (options.window > 0) {
    hidden = hidden | (position - key >= options.window);
  }
  return (logits - row_lse.masked_fill(blind, 0)).exp().masked_fill(hidden, 0);
}

}  // namespace kvscope
