#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "cache_slots.h"
#include "kvscope/attach/attached_run.h"
#include "kvscope/capture/recorder.h"
#include "kvscope/core/shape.h"

namespace kvscope::detail {

/// Checks types, shapes and constants of a call against the model; throws Error{unsupported}.
void check_call(const AttentionCall& call, const ModelShape& shape, int rows);

/// How the columns of a call are to be read.
enum class Columns {
  tokens,  ///< column = token, from 0
  newest,  ///< the newest tokens of a sliding layer
  cut,     ///< what a compressed cache has left
};
/// `tokens`: seen with this pass.
Columns columns_of(const AttentionCall& call, int tokens);

/// Cells that no query sees, [kv_heads, columns] bool on the CPU; undefined if there are none.
at::Tensor hidden_cells(const AttentionCall& call, const ModelShape& shape);

/// Rows [kv_heads, columns, head_dim] in the order of slots: `order` as `CacheSlots::order` gives
/// it.
at::Tensor in_order(const at::Tensor& rows, const at::Tensor& order);

/// What the query of one row sees of slots that are no longer all tokens: fills in keys, values,
/// slots, attention and lse of `record`, whose queries are set, [query_heads, 1, head_dim].
void look_at_slots(LayerRecord& record, const at::Tensor& keys, const at::Tensor& values,
                   SlotTable slots, const ModelShape& shape);

/// The newest `slots` of `tokens` tokens, in every head.
SlotTable newest_slots(int kv_heads, int slots, int tokens);

}  // namespace kvscope::detail
