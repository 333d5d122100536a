#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/core/shape.h"
#include "kvscope/core/slots.h"

namespace kvscope {

/// What a method may look at: one layer at one moment, never later than `moment().tokens_seen`.
/// Lazy: what is asked for is computed once and remembered. All tensors float32, contiguous, on the
/// evidence's device. Asking for what the run lacks throws Error{missing_data} naming the flag that
/// captures it. Safe to use from one thread at a time.
class LayerEvidence {
 public:
  virtual ~LayerEvidence() = default;

  virtual const ModelShape& shape() const = 0;
  virtual Moment moment() const = 0;
  virtual const SlotTable& slots() const = 0;

  virtual at::Tensor keys(Frame frame) const = 0;      ///< [kv_heads, slots, head_dim]
  virtual at::Tensor values() const = 0;               ///< [kv_heads, slots, head_dim]
  /// The newest queries, post-RoPE: [query_heads, newest, head_dim].
  virtual at::Tensor queries(int newest) const = 0;
  /// Probabilities of the newest queries: [query_heads, newest, slots], rows sum to 1.
  virtual at::Tensor attention(int newest) const = 0;

  virtual at::Tensor attention_sum() const = 0;          ///< [query_heads, slots] over all queries so far
  /// The same over the queries of decode steps alone; zeros at the prompt's end.
  virtual at::Tensor decode_attention_sum() const = 0;   ///< [query_heads, slots]
  virtual at::Tensor attention_sum_squares() const = 0;  ///< [query_heads, slots]
  virtual at::Tensor attention_max() const = 0;          ///< [query_heads, slots]
  /// Over the newest `window` queries: [query_heads, slots].
  virtual at::Tensor window_sum(int window) const = 0;
  virtual at::Tensor window_sum_squares(int window) const = 0;
  virtual at::Tensor last_query() const = 0;             ///< [query_heads, slots] the newest query's row
  virtual at::Tensor lse(int newest) const = 0;          ///< [query_heads, newest]
  virtual at::Tensor key_norm() const = 0;               ///< [kv_heads, slots] L2
  /// Norm of v W_O per query head: [query_heads, slots]; `order` is 1 or 2.
  virtual at::Tensor projected_value_norm(int order) const = 0;
  /// W_O^h = L_h U_h: [query_heads, head_dim, head_dim] (specs/probe.md 3.5).
  virtual at::Tensor output_factor() const = 0;
  /// [query_heads, head_dim, hidden_dim], row convention y = v W_O^h.
  virtual at::Tensor output_weights() const = 0;

  /// d loss / d key of the pass being observed (`ForwardRequest::key_gradient`), in the pre-RoPE
  /// frame: [kv_heads, slots, head_dim]. The loss is the mean next-token cross entropy inside the
  /// pass. float64 if the request says so, as `attention` of the whole pass then is. Throws
  /// Error{missing_data} anywhere else.
  virtual at::Tensor key_gradient() const { return no_gradient(); }
  /// d loss / d attention output, before W_O, of the same pass: [query_heads, tokens, head_dim].
  virtual at::Tensor output_gradient() const { return no_gradient(); }

  /// Seed of draws keyed by (layer, kv_head, event), so that they do not depend on call order.
  virtual std::uint64_t random_seed() const = 0;

 private:
  [[noreturn]] at::Tensor no_gradient() const {
    throw Error(ErrorCode::missing_data, "gradients of keys are needed", "evidence",
                "decide in a live run: kvscope generate");
  }
};

}  // namespace kvscope
