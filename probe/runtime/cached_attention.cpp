#include "cached_attention.h"

#include <ATen/ops/cat.h>
#include <fmt/format.h>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

/// Keys as attention reads them, from the stored ones.
at::Tensor keys_in_float64(const LayerState& state, const RopeParameters& rope) {
  return state.form().keys == Frame::pre_rope
             ? state.turned(state.stored_keys().to(at::kDouble), rope, false)
             : state.keys().to(at::kDouble);
}

at::Tensor followed_by(const at::Tensor& cached, const at::Tensor& own) {
  return at::cat({cached.narrow(1, 0, cached.size(1) - own.size(1)), own}, 1);
}

}  // namespace

AttentionTrace cached_attention(const DifferentiableModel& model, const LayerState& state,
                                int layer, const Projected& projected) {
  const ModelShape& shape = model.model().shape();
  KVSCOPE_CHECK(state.uniform() && shape.window_of(layer) == 0 &&
                    shape.rope_of(layer).growth == RopeGrowth::fixed,
                ErrorCode::unsupported,
                "gradients need KV heads of one length, no sliding window and a fixed rotation",
                fmt::format("layer {}", layer), "use a method that needs no gradients");
  AttentionTrace trace;
  trace.queries = projected.queries.detach();
  if (model.float64()) {
    trace.keys =
        followed_by(keys_in_float64(state, shape.rope_of(layer)), projected.keys.detach());
    trace.values = followed_by(state.values().to(at::kDouble), projected.values.detach());
  } else {
    trace.keys = state.keys().to(at::kFloat);
    trace.values = state.values().to(at::kFloat);
  }
  trace.multiplicity = state.multiplicity();
  trace.scale = shape.attention_scale;
  trace.softcap = shape.logit_softcap;
  return trace;
}

}  // namespace kvscope::detail
