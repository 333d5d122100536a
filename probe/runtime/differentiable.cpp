#include "differentiable.h"

#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>

#include "forward.h"
#include "steps.h"

namespace kvscope::detail {
namespace {

at::Tensor in(at::ScalarType type, const at::Tensor& tensor) {
  return tensor.defined() ? tensor.to(type) : tensor;
}

}  // namespace

DifferentiableModel::DifferentiableModel(const LoadedModel& model, bool float64)
    : model_(model),
      product_(float64 ? at::kDouble : model.dtype()),
      sum_(float64 ? at::kDouble : at::kFloat),
      head_(float64 ? model.head().dense().to(at::kDouble) : at::Tensor()) {}

at::Tensor DifferentiableModel::rms_normed(const at::Tensor& x, const at::Tensor& weight) const {
  const double epsilon = model_.config().norm_epsilon;
  return x.mul(at::rsqrt(at::mean(x.square(), {-1}, true).add(epsilon))).mul(weight);
}

at::Tensor DifferentiableModel::normed(const at::Tensor& x, const NormWeights& norm) const {
  return model_.config().norm == NormKind::rms
             ? rms_normed(x, norm.weight)
             : at::layer_norm(x, {x.size(-1)}, in(sum_, norm.weight), in(sum_, norm.bias),
                              model_.config().norm_epsilon);
}

/// x weight^T + bias; the bias may be undefined.
at::Tensor DifferentiableModel::product(const at::Tensor& x, const WeightMatrix& weight,
                                        const at::Tensor& bias) const {
  const at::Tensor plain = at::linear(x.to(product_), weight.dense().to(product_));
  return bias.defined() ? plain.add(bias.to(product_)) : plain;
}

/// What a block adds to the residual stream, through its post-norm where it has one.
at::Tensor DifferentiableModel::block_output(const at::Tensor& x, const WeightMatrix& weight,
                                             const at::Tensor& bias,
                                             const NormWeights& post_norm) const {
  at::Tensor output = product(x, weight, {}).to(sum_);
  if (bias.defined()) {
    output = output.add(bias);
  }
  return post_norm.defined() ? normed(output, post_norm) : output;
}

Projected DifferentiableModel::project(int layer, const at::Tensor& hidden,
                                       const Rotation& rotation) const {
  const ModelShape& shape = model_.shape();
  const LayerWeights& weights = model_.layer(layer);
  const at::Tensor x = normed(hidden, weights.attention_norm);
  const at::Tensor heads = product(x, weights.qkv, weights.qkv_bias)
                               .to(sum_)
                               .view({hidden.size(0), -1, shape.head_dim})
                               .transpose(0, 1);
  const auto part = [&](int first, int count, const at::Tensor& norm) {
    const at::Tensor rows = heads.narrow(0, first, count);
    return norm.defined() ? rms_normed(rows, norm) : rows;
  };
  return {rotate(part(0, shape.query_heads, weights.query_norm), rotation),
          rotate(part(shape.query_heads, shape.kv_heads, weights.key_norm), rotation),
          heads.narrow(0, shape.query_heads + shape.kv_heads, shape.kv_heads)};
}

at::Tensor DifferentiableModel::after_attention(int layer, const at::Tensor& hidden,
                                                const at::Tensor& attended) const {
  const LayerWeights& weights = model_.layer(layer);
  const at::Tensor middle = hidden.add(block_output(attended, weights.output, weights.output_bias,
                                                    weights.post_attention_norm));
  const at::Tensor& input = model_.config().parallel_mlp ? hidden : middle;
  const at::Tensor x = normed(input, weights.mlp_norm);
  const at::Tensor gate_up = product(x, weights.gate_up, weights.gate_up_bias);
  const std::int64_t mlp = model_.config().mlp_dim;
  at::Tensor active = activated(gate_up.narrow(1, 0, mlp), model_.config().activation);
  if (model_.config().gated_mlp) {
    active = active.mul(gate_up.narrow(1, mlp, mlp));
  }
  return middle.add(block_output(active, weights.down, weights.down_bias, weights.post_mlp_norm));
}

at::Tensor DifferentiableModel::output_norm(const at::Tensor& hidden) const {
  return normed(hidden, model_.output_norm());
}

at::Tensor DifferentiableModel::logits(const at::Tensor& normed) const {
  if (!float64()) {
    return head_logits(model_, normed);
  }
  const at::Tensor plain = at::linear(normed, head_);
  const double cap = model_.config().output_softcap;
  return cap > 0 ? plain.div(cap).tanh().mul(cap) : plain;
}

at::Tensor DifferentiableModel::through_head(const at::Tensor& gradient) const {
  if (float64()) {
    return at::matmul(gradient, head_);
  }
  at::Tensor back = at::zeros({gradient.size(0), model_.head().columns()}, gradient.options());
  model_.head().tiles([&](std::int64_t row, const at::Tensor& tile) {
    back.add_(at::matmul(gradient.narrow(1, row, tile.size(0)).to(product_), tile));
  });
  return back;
}

}  // namespace kvscope::detail
