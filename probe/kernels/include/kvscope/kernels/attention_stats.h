#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kvscope {

/// Which attention statistics are computed.
struct AttentionWanted {
  bool columns = true;  ///< sums, squares, maxima over all queries
  bool entropy = true;
  std::vector<int> windows;  ///< observation windows: statistics over the last w queries, each
  bool last_query = true;
  /// So many of the last query's largest probabilities instead of all of them, and the sum of those
  /// of `last_sinks` first keys. From `attention_with_stats` of a few queries on the CPU;
  /// `last_query` is given in their place elsewhere.
  int last_top = 0;
  int last_sinks = 0;

  bool any() const { return columns || entropy || last_query || last_top > 0 || !windows.empty(); }
  static AttentionWanted nothing() {
    AttentionWanted wanted;
    wanted.columns = wanted.entropy = wanted.last_query = false;
    return wanted;
  }
};

/// What they are computed over. Query i has position `first_query + i`; key j is visible to it iff
/// j <= position and (window == 0 or position - j < window).
struct AttentionStatsOptions : AttentionWanted {
  double scale = 1.0;
  double softcap = 0.0;
  int window = 0;
  int first_query = 0;  ///< position of queries[0]; keys are positions 0 .. tokens - 1
};

/// Statistics over the last `window` queries.
struct WindowStats {
  int window = 0;          ///< as stored: clipped to the number of queries
  at::Tensor sum;          ///< [query_heads, tokens] float32
  at::Tensor sum_squares;  ///< [query_heads, tokens]
  at::Tensor max;          ///< [query_heads, tokens]
};

/// The largest probabilities of a query, descending, equal ones by key; and what first keys get.
struct TopProbabilities {
  std::vector<std::int32_t> key;   ///< [query_heads, count]; -1 where there are fewer keys
  std::vector<float> probability;  ///< [query_heads, count]; NaN where there are fewer keys
  std::vector<float> sink_mass;    ///< [query_heads]
};

/// Undefined tensors, and null, were not asked for.
struct AttentionStats {
  at::Tensor lse;                               ///< [query_heads, queries] natural log
  at::Tensor sum;                               ///< [query_heads, tokens]
  at::Tensor sum_squares;                       ///< [query_heads, tokens]
  at::Tensor max;                               ///< [query_heads, tokens]
  at::Tensor entropy;                           ///< [query_heads, queries] nats
  at::Tensor last_query;                        ///< [query_heads, tokens]
  std::shared_ptr<const TopProbabilities> top;  ///< of the last query
  at::Tensor
      self_check;  ///< [query_heads] |sum over keys of `sum` - rows| / rows, rows that see a key
  std::vector<WindowStats> windows;

  /// Whether all that is wanted is there, of as many windows.
  bool has(const AttentionWanted& wanted) const {
    return (!wanted.columns || sum.defined()) && (!wanted.entropy || entropy.defined()) &&
           (!wanted.last_query || last_query.defined()) && windows.size() >= wanted.windows.size();
  }
};

/// Two-pass attention statistics without a map (specs/probe.md 3.3): LSE (unless given), then one
/// key-stationary pass over tiles that stay in L2.
/// queries [query_heads, queries, head_dim], keys [kv_heads, tokens, head_dim], float32, post-RoPE,
/// same device; strides are free but for a contiguous last axis. lse [query_heads, queries] or
/// undefined. Rows with no visible key: lse = -inf, probability 0. Same bytes for any thread count.
/// Throws Error{usage} on wrong shapes, types or devices.
AttentionStats attention_stats(const at::Tensor& queries, const at::Tensor& keys,
                               const at::Tensor& lse, const AttentionStatsOptions& options);

/// Causal attention of `queries` over `keys`/`values` with LSE. Shapes as above; values
/// [kv_heads, tokens, head_dim] in the keys' type, which may be bfloat16 under float32 queries;
/// multiplicity [kv_heads, tokens] float32 or undefined (= 1); length [kv_heads] int32 or undefined
/// (= tokens): live slots of a ragged cache. With a multiplicity or a length, every live slot is
/// visible to every query unless it is among the newest `causal_tail` slots, which are causal (the
/// tokens being appended): of the n queries, query i sees live slots up to live - n + i. A sliding
/// window needs the ordinary form (neither given). On the CPU ours, in float32 whatever the type:
/// same bytes for any thread count, and all-ones multiplicities change no bit. Elsewhere LibTorch
/// operators, a block of queries at a time. Throws Error{usage} on wrong shapes, types or devices;
/// Error{unsupported} for a window over slots.
struct AttentionOptions {
  double scale = 1.0;
  double softcap = 0.0;
  int window = 0;
  int first_query = 0;
  int causal_tail = 0;
};
struct AttentionResult {
  at::Tensor output;  ///< [query_heads, queries, head_dim]
  at::Tensor lse;     ///< [query_heads, queries] float32
};
AttentionResult attention_with_lse(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& multiplicity,
                                   const at::Tensor& length, const AttentionOptions& options);

/// Causal attention and statistics of the same pass: what `attention_with_lse` computes, bit for
/// bit, and what `attention_stats` says of it, from the weights of the softmax while they are there
/// instead of a second product of queries and keys. Shapes as in `attention_with_lse`; columns are
/// slots, a merged slot's probability is that of the whole slot. With a multiplicity or a length,
/// the queries' own slots are the newest and causal. On the CPU: same bytes for any thread count;
/// elsewhere the one after the other, without multiplicity and length.
/// Throws Error{usage} on wrong shapes, types or devices; Error{unsupported} for a window over
/// slots, and for slots elsewhere than on the CPU.
struct AttentionPass {
  at::Tensor output;  ///< [query_heads, queries, head_dim]
  AttentionStats stats;
};
AttentionPass attention_with_stats(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& multiplicity,
                                   const at::Tensor& length, const AttentionStatsOptions& options);

/// Probabilities of any rectangle from Q, K and LSE: [queries, keys] float32 of one query head.
/// queries [queries, head_dim] at positions first_query..., keys [keys, head_dim] at first_key...,
/// lse [queries]. The one function behind every attention map of kvscope.
at::Tensor attention_rectangle(const at::Tensor& queries, const at::Tensor& keys,
                               const at::Tensor& lse, int first_query, int first_key,
                               const AttentionStatsOptions& options);

/// Whether libkvscope_cuda could be opened and a device is there; `why_not` says what is missing.
bool cuda_available(std::string* why_not = nullptr);

}  // namespace kvscope
