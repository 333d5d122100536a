#pragma once

#include <functional>

#include "forward.h"
#include "kvscope/capture/recorder.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::detail {

/// Attention statistics that a recorder (or null) asks of a layer's pass over `rows` queries from
/// token `first_token` on, at a step (0 = the prompt). None where `record_of` brings the slots'.
AttentionWanted wanted_by(const Recorder* recorder, int step, int layer, const LayerState& state,
                          int first_token, int rows);

/// What one layer of a pass offers to the recorder. A decode step on a cache that no longer holds
/// every token brings its slot table and the newest query's attention along.
LayerRecord record_of(const LayerPass& pass, const LayerState& state, const ModelShape& shape,
                      int first_token, bool decode_step);

/// Shows the hook points of a pass to whoever asked for them: `options.hook`, and a recorder (or
/// null) that stores points of this step. Both must outlive it; empty if nobody did.
std::function<void(HookPoint point, int layer, const at::Tensor& tensor)> pass_hook(
    const LiveRunOptions& options, Recorder* recorder, int step, int first_token);

/// Hands a recorder the logits it asks for: of the final states `hidden` [rows, hidden_dim] of
/// tokens first_token, ..., a block of rows at a time. Null: nobody asks.
void record_logits(const LoadedModel& model, const at::Tensor& hidden, int step, int first_token,
                   Recorder* recorder);

}  // namespace kvscope::detail
