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

#include "attention_backward.h"
#include "differentiable.h"
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

Loss next_token_loss(const LoadedModel& model, std::span<const std::int32_t> ids,
                     const at::Tensor& normed) {
  const std::int64_t targets = normed.size(0) - 1;
  at::Tensor next = at::empty({targets, 1}, at::kLong);
  std::copy(ids.begin() + 1, ids.end(), next.mutable_data_ptr<std::int64_t>());
  next = next.to(normed.device());
  Loss loss;
  loss.normed = at::empty_like(normed, at::kFloat);
  loss.normed.select(0, targets).zero_();  // the newest row has no target inside the pass
  for (std::int64_t first = 0; first < targets; first += head_block) {
    const std::int64_t count = std::min(head_block, targets - first);
    const at::Tensor logits = head_logits(model, normed.narrow(0, first, count));
    at::Tensor log_p = at::log_softmax(logits, -1);
    const at::Tensor index = next.narrow(0, first, count);
    loss.value -= log_p.gather(1, index).sum().item<double>();
    at::Tensor gradient = log_p.exp_();
    gradient.scatter_add_(1, index, at::empty_like(index, at::kFloat).fill_(-1));
    gradient.div_(static_cast<double>(targets));
    if (const double cap = model.config().output_softcap; cap > 0) {
      gradient.mul_(logits.div(cap).square_().neg_().add_(1));  // of c tanh(x / c)
    }
    at::Tensor back = loss.normed.narrow(0, first, count);
    back.zero_();
    model.head().tiles([&](std::int64_t row, const at::Tensor& tile) {
      back.add_(at::matmul(gradient.narrow(1, row, tile.size(0)).to(model.dtype()), tile));
    });
  }
  loss.value /= static_cast<double>(targets);
  return loss;
}

at::Tensor leaf(const at::Tensor& tensor) {
  return tensor.detach().requires_grad_(true);
}

/// d loss / d output of the last layer.
at::Tensor through_output_norm(const LoadedModel& model, const PassTrace::Layer& last,
                               const at::Tensor& upstream) {
  const std::int64_t rows = last.hidden.size(0);
  const at::Tensor out = leaf(after_attention(model, model.shape().layers - 1, last.hidden,
                                              last.output.transpose(0, 1).reshape({rows, -1})));
  const at::AutoGradMode recording(true);
  return torch::autograd::grad({output_norm(model, out)}, {out}, {upstream}).front();
}

class Backward {
 public:
  Backward(const LoadedModel& model, const std::vector<LayerState>& layers)
      : model_(model), layers_(layers) {}

  /// Through one layer: d loss / d output of the layer becomes that of its input.
  LayerGradient run_layer(int layer, const PassTrace::Layer& trace, at::Tensor& upstream) {
    const LayerState& state = layers_[static_cast<std::size_t>(layer)];
    const std::int64_t rows = trace.hidden.size(0);
    const at::AutoGradMode recording(true);
    const at::Tensor hidden = leaf(trace.hidden);
    const at::Tensor attended = leaf(trace.output.transpose(0, 1).reshape({rows, -1}));
    const at::Tensor out = after_attention(model_, layer, hidden, attended);
    const auto tail = torch::autograd::grad({out}, {attended, hidden}, {upstream});
    LayerGradient gradient{layer, {}, {}};
    gradient.output = tail[0].view({rows, model_.shape().query_heads, -1}).transpose(0, 1);
    const AttentionGradient inner = through_attention(state, trace, gradient.output, layer);
    const Rotation rotation =
        rotation_of(model_.shape().rope_of(layer), trace.positions, model_.device());
    const at::Tensor input = leaf(trace.hidden);
    const Projected projected = project(model_, layer, input, rotation);
    const auto head = torch::autograd::grad(
        {projected.queries, projected.keys, projected.values}, {input},
        {inner.queries, inner.keys.narrow(1, state.longest() - rows, rows), inner.new_values});
    upstream = tail[1].add(head[0]);
    gradient.keys = before_rotation(state, inner.keys, layer);
    return gradient;
  }

 private:
  AttentionGradient through_attention(const LayerState& state, const PassTrace::Layer& trace,
                                      const at::Tensor& output_gradient, int layer) const {
    KVSCOPE_CHECK(state.uniform() && model_.shape().window_of(layer) == 0 &&
                      model_.shape().rope_of(layer).growth == RopeGrowth::fixed,
                  ErrorCode::unsupported,
                  "gradients need KV heads of one length, no sliding window and a fixed rotation",
                  fmt::format("layer {}", layer), "use a method that needs no gradients");
    const at::NoGradGuard no_grad;
    return attention_backward(
        {trace.queries, state.keys().to(at::kFloat), state.values().to(at::kFloat),
         state.multiplicity(), trace.lse, trace.output, model_.shape().attention_scale,
         model_.shape().logit_softcap},
        output_gradient);
  }

  /// The transpose of the rotation: its inverse, but for the attention factor.
  at::Tensor before_rotation(const LayerState& state, const at::Tensor& keys, int layer) const {
    const at::NoGradGuard no_grad;
    const RopeParameters& rope = model_.shape().rope_of(layer);
    return state.turned(keys, rope, true).mul_(rope.attention_factor * rope.attention_factor);
  }

  const LoadedModel& model_;
  const std::vector<LayerState>& layers_;
};

}  // namespace

void PassTrace::keep(const LayerPass& pass) {
  layers_.push_back({pass.hidden.clone(),
                     pass.queries.clone(),
                     pass.lse,
                     pass.output,
                     {pass.positions.begin(), pass.positions.end()}});
}

double run_backward(const LoadedModel& model, const std::vector<LayerState>& layers,
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
  for (int layer = model.shape().layers - 1; layer >= 0; --layer) {
    KVSCOPE_CHECK(stop == nullptr || !stop->load(), ErrorCode::interrupted, "the run was stopped",
                  fmt::format("layer {}, on the way back", layer),
                  "start it again; nothing was written");
    watch(backward.run_layer(layer, trace.layers()[static_cast<std::size_t>(layer)], upstream));
  }
  return loss.value;
}

}  // namespace kvscope::detail
