#include "sampled_sum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "logit_rows.h"

namespace kvscope::detail {
namespace {

/// Sampled rows of one head whose probabilities exist at once.
constexpr std::int64_t rows_at_once = 64;

/// splitmix64's finaliser: every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

QuerySample sample_of(const CaptureRequest& request, int prompt_tokens) {
  QuerySample sample;
  sample.stride = std::max(request.sample_queries, 1);
  const auto choices = static_cast<std::uint64_t>(std::min(sample.stride, prompt_tokens));
  sample.first = static_cast<int>(mix(request.seed + 0x9e3779b97f4a7c15u) % choices);
  sample.count = (prompt_tokens - sample.first + sample.stride - 1) / sample.stride;
  return sample;
}

SampledSum::SampledSum(const ModelShape& shape, int layer, QuerySample sample, int prompt_tokens)
    : shape_(shape),
      window_(shape.window_of(layer)),
      sample_(sample),
      sum_(at::zeros({shape.query_heads, prompt_tokens}, at::kFloat)) {}

void SampledSum::add(const LayerRecord& record, const at::Tensor& lse) {
  const auto end = record.first_query + static_cast<int>(record.queries.size(1));
  const int before =
      (std::max(0, record.first_query - sample_.first) + sample_.stride - 1) / sample_.stride;
  const int first = sample_.first + before * sample_.stride;
  if (first >= end) {
    return;
  }
  const at::Tensor rows = at::arange(first - record.first_query, end - record.first_query,
                                     sample_.stride, at::TensorOptions(at::kLong));
  for (int query_head = 0; query_head < shape_.query_heads; ++query_head) {
    for (std::int64_t row = 0; row < rows.size(0); row += rows_at_once) {
      const std::int64_t count = std::min(rows_at_once, rows.size(0) - row);
      add_rows(record, lse, query_head, rows.narrow(0, row, count));
    }
  }
}

void SampledSum::add_rows(const LayerRecord& record, const at::Tensor& lse, int query_head,
                          const at::Tensor& rows) {
  const std::int64_t visible = record.first_query + rows[-1].item<std::int64_t>() + 1;
  const at::Tensor index = rows.to(record.queries.device());
  at::Tensor p = attention_logits(record.queries[query_head].index_select(0, index),
                                  record.keys[shape_.kv_head_of(query_head)].narrow(0, 0, visible),
                                  index + std::int64_t{record.first_query}, shape_, window_);
  p.sub_(lse[query_head].index_select(0, index).unsqueeze(1)).exp_();
  sum_[query_head].narrow(0, 0, visible).add_(p.sum(0).to(at::kCPU));
}

at::Tensor SampledSum::self_check() const {
  const auto queries = static_cast<double>(sample_.count);
  return at::abs(sum_.sum(1) - queries) / queries;
}

}  // namespace kvscope::detail
