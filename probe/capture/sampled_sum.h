#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kvscope/capture/recorder.h"

namespace kvscope::detail {

/// Which prompt queries are sampled: `first`, `first` + `stride`, ... The first one is drawn from
/// the request's seed, the same in all layers.
struct QuerySample {
  int first = 0;
  int stride = 1;
  int count = 0;
};
QuerySample sample_of(const CaptureRequest& request, int prompt_tokens);

/// Attention that tokens receive from the sampled queries of one layer, added up over the chunks of
/// a prefill: 1 / stride of the work of `PrefillStatistics::sum`.
class SampledSum {
 public:
  SampledSum(const ModelShape& shape, int layer, QuerySample sample, int prompt_tokens);

  /// A chunk of the prompt; `lse` [query_heads, n].
  void add(const LayerRecord& record, const at::Tensor& lse);
  const at::Tensor& sum() const { return sum_; }  ///< [query_heads, prompt_tokens]
  at::Tensor self_check() const;                  ///< [query_heads] |sum of the sums - n| / n

 private:
  /// Rows of the chunk, indices into it, of one query head.
  void add_rows(const LayerRecord& record, const at::Tensor& lse, int query_head,
                const at::Tensor& rows);

  const ModelShape& shape_;
  int window_;
  QuerySample sample_;
  at::Tensor sum_;
};

}  // namespace kvscope::detail
