#include "backward.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "cached_attention.h"
#include "kvscope/core/error.h"
#include "rotation.h"

namespace kvscope::detail {
namespace {

/// Rows whose logits exist at once: rows x vocabulary is the largest tensor of a pass.
constexpr std::int64_t head_block = 64;

/// Mean next-token cross entropy and its gradient by the normalised states.
struct Loss {
  double value = 0;
  at::Tensor normed;  ///< [rows, hidden_dim] d loss / d normed
};

Loss next_token_loss(const DifferentiableModel& model, std::span<const std::int32_t> ids,
                     const at::Tensor& normed) {
  const std::int64_t targets = normed.size(0) - 1;
  at::Tensor next = at::empty({targets, 1}, at::kLong);
  std::copy(ids.begin() + 1, ids.end(), next.mutable_data_ptr<std::int64_t>());
  next = next.to(normed.device());
  Loss loss;
  loss.normed = at::empty_like(normed, model.type());
  loss.normed.select(0, targets).zero_();  // the newest row has no target inside the pass
  for (std::int64_t first = 0; first < targets; first += head_block) {
    const std::int64_t count = std::min(head_block, targets - first);
    const at::Tensor logits = model.logits(normed.narrow(0, first, count));
    at::Tensor log_p = at::log_softmax(logits, -1);
    const at::Tensor index = next.narrow(0, first, count);
    loss.value -= log_p.gather(1, index).sum().item<double>();
    at::Tensor gradient = log_p.exp_();
    gradient.scatter_add_(1, index, at::empty_like(index, model.type()).fill_(-1));
    gradient.div_(static_cast<double>(targets));
    if (const double cap = model.model().config().output_softcap; cap > 0) {
      gradient.mul_(logits.div(cap).square_().neg_().add_(1));  // of c tanh(x / c)
    }
    loss.normed.narrow(0, first, count).copy_(model.through_head(gradient));
  }
  loss.value /= static_cast<double>(targets);
  return loss;
}

at::Tensor leaf(const at::Tensor& tensor) {
  return tensor.detach().requires_grad_(true);
}

/// d loss / d output of the last layer.
at::Tensor through_output_norm(const DifferentiableModel& model, const PassTrace::Layer& last,
                               const at::Tensor& upstream) {
  const std::int64_t rows = last.hidden.size(0);
  const at::Tensor out =
      leaf(model.after_attention(model.model().shape().layers - 1, last.hidden,
                                 last.output.transpose(0, 1).reshape({rows, -1})));
  const at::AutoGradMode recording(true);
  return torch::autograd::grad({model.output_norm(out)}, {out}, {upstream}).front();
}

class Backward {
 public:
  Backward(const DifferentiableModel& model, const std::vector<LayerState>& layers)
      : model_(model), layers_(layers) {}

  /// Through one layer: d loss / d output of the layer becomes that of its input.
  LayerGradient run_layer(int layer, const PassTrace::Layer& trace, at::Tensor& upstream) {
    const ModelShape& shape = model_.model().shape();
    const LayerState& state = layers_[static_cast<std::size_t>(layer)];
    const std::int64_t rows = trace.hidden.size(0);
    const at::AutoGradMode recording(true);
    const at::Tensor hidden = leaf(trace.hidden);
    const at::Tensor attended = leaf(trace.output.transpose(0, 1).reshape({rows, -1}));
    const at::Tensor out = model_.after_attention(layer, hidden, attended);
    const auto tail = torch::autograd::grad({out}, {attended, hidden}, {upstream});
    LayerGradient gradient{layer, {}, {}, {}};
    gradient.output = tail[0].view({rows, shape.query_heads, -1}).transpose(0, 1);
    const Rotation rotation = rotation_of(shape.rope_of(layer), trace.positions,
                                          model_.model().device(), 0, model_.type());
    const at::Tensor input = leaf(trace.hidden);
    const Projected projected = model_.project(layer, input, rotation);
    gradient.attention = attention_of(state, trace, projected, layer);
    const AttentionGradient inner = through(gradient.attention, gradient.output);
    const auto head = torch::autograd::grad(
        {projected.queries, projected.keys, projected.values}, {input},
        {inner.queries, inner.keys.narrow(1, state.longest() - rows, rows), inner.new_values});
    upstream = tail[1].add(head[0]);
    gradient.keys = before_rotation(state, inner.keys, layer);
    return gradient;
  }

 private:
  /// As it was computed forward.
  AttentionTrace attention_of(const LayerState& state, const PassTrace::Layer& trace,
                              const Projected& projected, int layer) const {
    const at::NoGradGuard no_grad;
    AttentionTrace attention = cached_attention(model_, state, layer, projected);
    attention.queries = trace.queries;
    attention.lse = trace.lse;
    attention.output = trace.output;
    return attention;
  }

  static AttentionGradient through(const AttentionTrace& attention,
                                   const at::Tensor& output_gradient) {
    const at::NoGradGuard no_grad;
    return attention_backward(attention, output_gradient);
  }

  /// The transpose of the rotation: its inverse, but for the attention factor.
  at::Tensor before_rotation(const LayerState& state, const at::Tensor& keys, int layer) const {
    const at::NoGradGuard no_grad;
    const RopeParameters& rope = model_.model().shape().rope_of(layer);
    return state.turned(keys, rope, true).mul_(rope.attention_factor * rope.attention_factor);
  }

  const DifferentiableModel& model_;
  const std::vector<LayerState>& layers_;
};

}  // namespace

void PassTrace::keep(const LayerPass& pass) {
  layers_.push_back({pass.hidden.clone(),
                     pass.queries.clone(),
                     pass.lse,
                     pass.output,
                     {pass.positions.begin(), pass.positions.end()},
                     pass.stats});
}

double run_backward(const DifferentiableModel& model, const std::vector<LayerState>& layers,
                    const PassTrace& trace, std::span<const std::int32_t> ids,
                    const at::Tensor& normed,
                    const std::function<void(const LayerGradient&)>& watch,
                    const std::atomic<bool>* stop) {
  KVSCOPE_CHECK(ids.size() > 1, ErrorCode::usage, "one token predicts none after it",
                "key gradients", "run at least two tokens");
  const Loss loss = next_token_loss(model, ids, normed);
  KVSCOPE_CHECK(std::isfinite(loss.value), ErrorCode::failed,
                fmt::format("the loss of the pass is {}", loss.value), "key gradients",
                "check the model's weights, or compute in float32");
  at::Tensor upstream = through_output_norm(model, trace.layers().back(), loss.normed);
  Backward backward(model, layers);
  for (int layer = model.model().shape().layers - 1; layer >= 0; --layer) {
    KVSCOPE_CHECK(stop == nullptr || !stop->load(), ErrorCode::interrupted, "the run was stopped",
                  fmt::format("layer {}, on the way back", layer),
                  "start it again; nothing was written");
    watch(backward.run_layer(layer, trace.layers()[static_cast<std::size_t>(layer)], upstream));
  }
  return loss.value;
}

}  // namespace kvscope::detail
