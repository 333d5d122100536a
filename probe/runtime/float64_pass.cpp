#include <fmt/format.h>

#include "attention_plain.h"
#include "backward.h"
#include "cached_attention.h"
#include "kvscope/core/error.h"
#include "rotation.h"
#include "steps.h"

namespace kvscope::detail {

Float64Pass in_float64(const DifferentiableModel& model, const std::vector<LayerState>& layers,
                       const PassTrace& seen, std::span<const std::int32_t> ids,
                       const std::atomic<bool>* stop) {
  const LoadedModel& weights = model.model();
  const auto rows = static_cast<std::int64_t>(ids.size());
  Float64Pass pass;
  at::Tensor hidden =
      embed(weights.embedding(), ids, weights.config().embedding_scale).to(model.type());
  for (int layer = 0; layer < weights.shape().layers; ++layer) {
    KVSCOPE_CHECK(stop == nullptr || !stop->load(), ErrorCode::interrupted, "the run was stopped",
                  fmt::format("layer {}, in float64", layer), "start it again; nothing was written");
    const auto index = static_cast<std::size_t>(layer);
    const std::vector<std::int32_t>& positions = seen.layers()[index].positions;
    const Rotation rotation = rotation_of(weights.shape().rope_of(layer), positions,
                                          weights.device(), 0, model.type());
    AttentionTrace attention = cached_attention(model, layers[index], layer,
                                                model.project(layer, hidden, rotation));
    attend_plain(attention);
    pass.trace.keep({hidden, attention.queries, attention.lse, attention.output, positions});
    hidden = model.after_attention(layer, hidden,
                                   attention.output.transpose(0, 1).reshape({rows, -1}));
  }
  pass.normed = model.output_norm(hidden);
  return pass;
}

}  // namespace kvscope::detail
