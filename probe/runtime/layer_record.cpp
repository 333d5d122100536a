#include "layer_record.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "attention_rows.h"

namespace kvscope::detail {

namespace {

/// Whether a cache no longer holds every one of `tokens` tokens in a slot of its own.
bool recorded_by_slots(const LayerState& state, int tokens) {
  return state.cut() && (state.merged() || !state.uniform() || state.longest() < tokens);
}

}  // namespace

AttentionWanted wanted_by(const Recorder* recorder, int step, int layer, const LayerState& state,
                          int first_token, int rows) {
  if (recorder == nullptr || !recorder->wants(layer) ||
      recorded_by_slots(state, first_token + rows)) {
    return AttentionWanted::nothing();
  }
  return recorder->wanted(step, first_token, rows);
}

LayerRecord record_of(const LayerPass& pass, const LayerState& state, const ModelShape& shape,
                      int first_token, bool decode_step) {
  LayerRecord record;
  record.layer = pass.layer;
  record.first_query = first_token;
  record.queries = pass.queries;
  // A decode step is asked for its newest row: nothing is gained by converting the others.
  record.keys = decode_step ? pass.keys : pass.keys.to(at::kFloat);
  record.values = decode_step ? pass.values : pass.values.to(at::kFloat);
  record.keys_pre_rope = pass.keys_pre_rope;
  record.lse = pass.lse;
  record.output = pass.output;
  record.stats = pass.stats;
  if (recorded_by_slots(state, first_token + static_cast<int>(pass.queries.size(1)))) {
    record.attention =
        attention_rows(pass.queries, pass.positions, state, shape, pass.layer).select(1, -1);
    record.slots = state.slots();
  }
  return record;
}

std::function<void(HookPoint point, int layer, const at::Tensor& tensor)> pass_hook(
    const LiveRunOptions& options, Recorder* recorder, int step, int first_token) {
  const bool recorded = recorder != nullptr && recorder->wants_hooks(step);
  if (!options.hook && !recorded) {
    return nullptr;
  }
  return [&options, recorder, recorded, step, first_token](HookPoint point, int layer,
                                                           const at::Tensor& tensor) {
    if (options.hook) {
      options.hook(point, layer, first_token, tensor);
    }
    if (recorded) {
      recorder->hook(point, layer, step, first_token, tensor);
    }
  };
}

void record_logits(const LoadedModel& model, const at::Tensor& hidden, int step, int first_token,
                   Recorder* recorder) {
  if (recorder == nullptr || !recorder->wants_hooks(step)) {
    return;
  }
  constexpr std::int64_t block = 32;
  for (std::int64_t first = 0; first < hidden.size(0); first += block) {
    const std::int64_t count = std::min(block, hidden.size(0) - first);
    const int token = first_token + static_cast<int>(first);
    if (recorder->wants_logits(step, token, count)) {
      recorder->hook(HookPoint::logits, model.shape().layers, step, token,
                     head_logits(model, hidden.narrow(0, first, count)));
    }
  }
}

}  // namespace kvscope::detail
