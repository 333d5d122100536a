#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kvscope/evidence/layer_evidence.h"

namespace kvscope::detail {

/// Less the mean, over the standard deviation (unbiased, at least 1e-6), of the whole tensor.
at::Tensor standardised(const at::Tensor& scores);

/// A Gaussian sketch [head_dim, columns], normal with variance 1 / columns: the draws of `seed`.
at::Tensor gaussian_sketch(std::int64_t head_dim, int columns, std::uint64_t seed);

/// Ridge leverage of the rows of keys [kv_heads, tokens, head_dim], centred over tokens, after
/// `sketch`: [kv_heads, tokens], in [0, 1). Throws Error{failed} if the Gram matrix stays singular.
at::Tensor leverage_of(const at::Tensor& keys, const at::Tensor& sketch, int layer);

/// What keys receive from all queries of their own chunk, later ones included: sums of attention
/// without scaling, mean over the group: [kv_heads, tokens]. `open_tail`: the places that the last
/// chunk lacks take part with logit 0, as in kvpress; else they do not exist.
at::Tensor chunk_attention(const at::Tensor& queries, const at::Tensor& keys, int chunk,
                           bool open_tail);

/// The query of each slot, [query_heads, slots, head_dim], on a cache that was never cut. Throws
/// Error{unsupported} on one that was, Error{missing_data} where not all queries were kept.
at::Tensor query_of_each_slot(const LayerEvidence& evidence);

}  // namespace kvscope::detail
