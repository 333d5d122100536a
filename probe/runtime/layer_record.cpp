#include "layer_record.h"

#include <utility>

#include "attention_rows.h"

namespace kvscope::detail {

LayerRecord record_of(const LayerPass& pass, const LayerState& state, const ModelShape& shape,
                      int first_token) {
  LayerRecord record;
  record.layer = pass.layer;
  record.first_query = first_token;
  record.queries = pass.queries;
  record.keys = state.keys().to(at::kFloat);
  record.values = state.values().to(at::kFloat);
  record.keys_pre_rope = pass.keys_pre_rope;
  record.lse = pass.lse;
  if (!state.cut()) {
    return record;
  }
  SlotTable slots = state.slots();
  const auto tokens = first_token + static_cast<int>(pass.queries.size(1));
  if (slots.slots < tokens || !slots.uniform() || !slots.unmerged()) {
    record.attention =
        attention_rows(pass.queries, pass.positions, state, shape, pass.layer).select(1, -1);
    record.slots = std::move(slots);
  }
  return record;
}

}  // namespace kvscope::detail
