#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isneginf.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "attention_impl.h"

namespace kvscope {
namespace {

constexpr double hidden = -std::numeric_limits<double>::infinity();

at::Tensor capped(const at::Tensor& logits, double softcap) {
  return softcap > 0 ? at::tanh(logits / softcap) * softcap : logits;
}

/// exp(logits - lse), 0 where `lse` is -inf.
at::Tensor probabilities(const at::Tensor& logits, const at::Tensor& lse) {
  const at::Tensor blind = at::isneginf(lse);
  return (logits - lse.masked_fill(blind, 0)).exp().masked_fill(blind, 0);
}

}  // namespace

namespace detail {

AttentionResult attention_with_lse_plain(const at::Tensor& queries, const at::Tensor& keys,
                                         const at::Tensor& values, const at::Tensor& multiplicity,
                                         const at::Tensor& length,
                                         const AttentionOptions& options) {
  constexpr std::int64_t block = 256;
  const std::int64_t kv_heads = keys.size(0);
  const std::int64_t tokens = keys.size(1);
  const std::int64_t rows = queries.size(1);
  const std::int64_t group = queries.size(0) / kv_heads;
  const auto whole = at::TensorOptions().dtype(at::kLong).device(keys.device());
  const at::Tensor slot = at::arange(tokens, whole);
  const bool slots = multiplicity.defined() || length.defined();
  const at::Tensor live = length.defined()
                              ? length.to(keys.device()).to(at::kLong).view({kv_heads, 1, 1, 1})
                              : at::zeros({kv_heads, 1, 1, 1}, whole) + tokens;
  // Cells beyond the live slots may hold anything; zeros keep 0 * NaN out of the products.
  const at::Tensor dead = (slot >= live.view({kv_heads, 1})).unsqueeze(-1);
  const at::Tensor k = keys.to(at::kFloat).masked_fill(dead, 0).unsqueeze(1);
  const at::Tensor v = values.to(at::kFloat).masked_fill(dead, 0).unsqueeze(1);
  std::vector<at::Tensor> outputs;
  std::vector<at::Tensor> lses;
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t count = std::min(block, rows - first);
    const at::Tensor q = queries.narrow(1, first, count)
                             .to(at::kFloat)
                             .view({kv_heads, group, count, queries.size(2)});
    at::Tensor logits = capped(at::matmul(q, k.transpose(-1, -2)) * options.scale, options.softcap);
    if (multiplicity.defined()) {
      logits = logits + multiplicity.log().view({kv_heads, 1, 1, tokens});
    }
    const at::Tensor row = at::arange(first, first + count, whole).unsqueeze(-1);
    at::Tensor seen = slot < live;
    if (slots && options.causal_tail > 0) {
      seen = seen & ((slot <= live - rows + row) | (slot < live - options.causal_tail));
    } else if (!slots) {
      const at::Tensor position = row + options.first_query;
      seen = seen & (slot <= position);
      if (options.window > 0) {
        seen = seen & (position - slot < options.window);
      }
    }
    logits = logits.masked_fill(seen.logical_not(), hidden);
    const at::Tensor lse = at::logsumexp(logits, -1, true);
    const at::Tensor p = probabilities(logits, lse);
    outputs.push_back(at::matmul(p, v).reshape({queries.size(0), count, values.size(2)}));
    lses.push_back(lse.reshape({queries.size(0), count}));
  }
  AttentionResult result;
  const auto real = at::TensorOptions().dtype(at::kFloat).device(keys.device());
  result.output = rows > 0 ? at::cat(outputs, 1).to(queries.scalar_type())
                           : at::empty({queries.size(0), 0, values.size(2)}, real);
  result.lse = rows > 0 ? at::cat(lses, 1) : at::empty({queries.size(0), 0}, real);
  return result;
}

}  // namespace detail
}  // namespace kvscope
