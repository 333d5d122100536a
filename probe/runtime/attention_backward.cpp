#include "attention_backward.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/log.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace kvscope::detail {
namespace {

/// Cells of one block of probabilities: what stays in the outer cache.
constexpr std::int64_t block_cells = std::int64_t{1} << 20;

/// One KV head's share: its group's queries against its keys.
class HeadBackward {
 public:
  HeadBackward(const AttentionTrace& trace, const at::Tensor& output_gradient,
               AttentionGradient& gradient, std::int64_t kv_head)
      : trace_(trace),
        group_(trace.queries.size(0) / trace.keys.size(0)),
        rows_(trace.queries.size(1)),
        past_(trace.keys.size(1) - rows_),
        first_head_(kv_head * group_),
        keys_(trace.keys.select(0, kv_head)),
        values_(trace.values.select(0, kv_head)),
        output_gradient_(output_gradient),
        query_gradient_(gradient.queries),
        key_gradient_(gradient.keys.select(0, kv_head)),
        value_gradient_(gradient.new_values.select(0, kv_head)) {
    if (trace.multiplicity.defined()) {
      log_count_ = at::log(trace.multiplicity.select(0, kv_head).to(keys_.scalar_type()));
    }
    delta_ = output_gradient.mul(trace.output).sum(-1);
  }

  void run() {
    const std::int64_t block =
        std::clamp<std::int64_t>(block_cells / (group_ * keys_.size(0)), 8, rows_);
    for (std::int64_t first = 0; first < rows_; first += block) {
      run_block(first, std::min(block, rows_ - first));
    }
  }

 private:
  /// The group's rows [first, first + count) of a [query_heads, rows, n] tensor: [group * count,
  /// n].
  at::Tensor rows_of(const at::Tensor& tensor, std::int64_t first, std::int64_t count) const {
    return tensor.narrow(0, first_head_, group_)
        .narrow(1, first, count)
        .reshape({group_ * count, -1});
  }

  void run_block(std::int64_t first, std::int64_t count) {
    const std::int64_t seen = past_ + first + count;  // later slots are hidden from the whole block
    const at::Tensor keys = keys_.narrow(0, 0, seen);
    const at::Tensor queries = rows_of(trace_.queries, first, count);
    const at::Tensor upstream = rows_of(output_gradient_, first, count);
    at::Tensor logits = at::matmul(queries, keys.t()).mul_(trace_.scale);
    at::Tensor slope;  // d capped logit / d logit
    if (trace_.softcap > 0) {
      const at::Tensor capped = logits.div(trace_.softcap).tanh_();
      slope = capped.square().neg_().add_(1);
      logits = capped.mul(trace_.softcap);
    }
    if (log_count_.defined()) {
      logits.add_(log_count_.narrow(0, 0, seen));
    }
    at::Tensor probability = logits.sub_(rows_of(trace_.lse.unsqueeze(-1), first, count)).exp_();
    const at::Tensor causal = at::ones({count, count}, probability.options()).tril_();
    probability.view({group_, count, seen}).narrow(2, seen - count, count).mul_(causal);
    value_gradient_.narrow(0, 0, first + count)
        .addmm_(probability.narrow(1, past_, first + count).t(), upstream);
    at::Tensor gradient = at::matmul(upstream, values_.narrow(0, 0, seen).t());
    gradient.sub_(rows_of(delta_.unsqueeze(-1), first, count)).mul_(probability);
    if (slope.defined()) {
      gradient.mul_(slope);
    }
    gradient.mul_(trace_.scale);
    query_gradient_.narrow(0, first_head_, group_)
        .narrow(1, first, count)
        .copy_(at::matmul(gradient, keys).view({group_, count, -1}));
    key_gradient_.narrow(0, 0, seen).addmm_(gradient.t(), queries);
  }

  const AttentionTrace& trace_;
  std::int64_t group_, rows_, past_, first_head_;
  at::Tensor keys_, values_;
  const at::Tensor& output_gradient_;
  at::Tensor query_gradient_, key_gradient_, value_gradient_;
  at::Tensor log_count_;  ///< [slots]
  at::Tensor delta_;      ///< [query_heads, rows] output . output gradient
};

}  // namespace

AttentionGradient attention_backward(const AttentionTrace& trace,
                                     const at::Tensor& output_gradient) {
  AttentionGradient gradient;
  gradient.queries = at::empty_like(trace.queries);
  gradient.keys = at::zeros_like(trace.keys, at::MemoryFormat::Contiguous);
  const std::int64_t rows = trace.queries.size(1);
  gradient.new_values =
      at::zeros_like(trace.values.narrow(1, 0, rows), at::MemoryFormat::Contiguous);
  for (std::int64_t kv_head = 0; kv_head < trace.keys.size(0); ++kv_head) {
    HeadBackward(trace, output_gradient, gradient, kv_head).run();
  }
  return gradient;
}

}  // namespace kvscope::detail
