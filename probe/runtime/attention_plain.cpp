#include "attention_plain.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

namespace kvscope::detail {
namespace {

/// Rows whose logits exist at once.
constexpr std::int64_t block_rows = 128;

struct Block {
  std::int64_t kv_head, first_head, group, first, count, seen;
  at::Tensor logits;  ///< [group, count, seen], -inf where a query sees nothing
};

template <typename Body>
void for_blocks(const AttentionTrace& trace, const Body& body) {
  const std::int64_t group = trace.queries.size(0) / trace.keys.size(0);
  const std::int64_t rows = trace.queries.size(1);
  const std::int64_t past = trace.keys.size(1) - rows;
  for (std::int64_t kv_head = 0; kv_head < trace.keys.size(0); ++kv_head) {
    for (std::int64_t first = 0; first < rows; first += block_rows) {
      const std::int64_t count = std::min(block_rows, rows - first);
      Block block{kv_head, kv_head * group, group, first, count, past + first + count, {}};
      const at::Tensor queries =
          trace.queries.narrow(0, block.first_head, group).narrow(1, first, count);
      const at::Tensor keys = trace.keys.select(0, kv_head).narrow(0, 0, block.seen);
      block.logits = at::matmul(queries, keys.t()).mul_(trace.scale);
      if (trace.softcap > 0) {
        block.logits.div_(trace.softcap).tanh_().mul_(trace.softcap);
      }
      if (trace.multiplicity.defined()) {
        block.logits.add_(at::log(trace.multiplicity.select(0, kv_head)
                                      .narrow(0, 0, block.seen)
                                      .to(trace.keys.scalar_type())));
      }
      const at::Tensor later = at::ones({count, count}, trace.keys.options().dtype(at::kBool));
      block.logits.narrow(2, block.seen - count, count)
          .masked_fill_(later.triu(1), -std::numeric_limits<double>::infinity());
      body(block);
    }
  }
}

}  // namespace

void attend_plain(AttentionTrace& trace) {
  trace.output = at::empty_like(trace.queries, at::MemoryFormat::Contiguous);
  trace.lse =
      at::empty({trace.queries.size(0), trace.queries.size(1)}, trace.queries.options());
  for_blocks(trace, [&](const Block& block) {
    const auto rows_of = [&](at::Tensor& tensor) {
      return tensor.narrow(0, block.first_head, block.group).narrow(1, block.first, block.count);
    };
    const at::Tensor lse = at::logsumexp(block.logits, {-1});
    rows_of(trace.lse).copy_(lse);
    const at::Tensor values = trace.values.select(0, block.kv_head).narrow(0, 0, block.seen);
    rows_of(trace.output)
        .copy_(at::matmul(block.logits.sub(lse.unsqueeze(-1)).exp_(), values));
  });
}

at::Tensor attention_probabilities(const AttentionTrace& trace) {
  at::Tensor result = at::zeros({trace.queries.size(0), trace.queries.size(1), trace.keys.size(1)},
                                trace.queries.options());
  for_blocks(trace, [&](const Block& block) {
    const at::Tensor lse =
        trace.lse.narrow(0, block.first_head, block.group).narrow(1, block.first, block.count);
    result.narrow(0, block.first_head, block.group)
        .narrow(1, block.first, block.count)
        .narrow(2, 0, block.seen)
        .copy_(block.logits.sub(lse.unsqueeze(-1)).exp_());
  });
  return result;
}

}  // namespace kvscope::detail
