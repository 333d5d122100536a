#include "differentiable.h"

#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>

#include "steps.h"

namespace kvscope::detail {
namespace {

at::Tensor rms_normed(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return x.mul(at::rsqrt(at::mean(x.square(), {-1}, true).add(epsilon))).mul(weight);
}

at::Tensor normed(const LoadedModel& model, const at::Tensor& x, const NormWeights& norm) {
  const double epsilon = model.config().norm_epsilon;
  return model.config().norm == NormKind::rms
             ? rms_normed(x, norm.weight, epsilon)
             : at::layer_norm(x, {x.size(-1)}, norm.weight, norm.bias, epsilon);
}

/// x weight^T + bias; the bias may be undefined.
at::Tensor product(const at::Tensor& x, const WeightMatrix& weight, const at::Tensor& bias) {
  const at::Tensor plain = at::linear(x, weight.dense());
  return bias.defined() ? plain.add(bias.to(plain.scalar_type())) : plain;
}

/// What a block adds to the residual stream: float32, through its post-norm where it has one.
at::Tensor block_output(const LoadedModel& model, const at::Tensor& x, const WeightMatrix& weight,
                        const at::Tensor& bias, const NormWeights& post_norm) {
  at::Tensor output = at::linear(x, weight.dense()).to(at::kFloat);
  if (bias.defined()) {
    output = output.add(bias);
  }
  return post_norm.defined() ? normed(model, output, post_norm) : output;
}

}  // namespace

Projected project(const LoadedModel& model, int layer, const at::Tensor& hidden,
                  const Rotation& rotation) {
  const ModelShape& shape = model.shape();
  const LayerWeights& weights = model.layer(layer);
  const at::Tensor x = normed(model, hidden, weights.attention_norm).to(model.dtype());
  const at::Tensor heads = product(x, weights.qkv, weights.qkv_bias)
                               .to(at::kFloat)
                               .view({hidden.size(0), -1, shape.head_dim})
                               .transpose(0, 1);
  const auto part = [&](int first, int count, const at::Tensor& norm) {
    const at::Tensor rows = heads.narrow(0, first, count);
    return norm.defined() ? rms_normed(rows, norm, model.config().norm_epsilon) : rows;
  };
  return {rotate(part(0, shape.query_heads, weights.query_norm), rotation),
          rotate(part(shape.query_heads, shape.kv_heads, weights.key_norm), rotation),
          heads.narrow(0, shape.query_heads + shape.kv_heads, shape.kv_heads)};
}

at::Tensor after_attention(const LoadedModel& model, int layer, const at::Tensor& hidden,
                           const at::Tensor& attended) {
  const LayerWeights& weights = model.layer(layer);
  const at::Tensor middle =
      hidden.add(block_output(model, attended.to(model.dtype()), weights.output,
                              weights.output_bias, weights.post_attention_norm));
  const at::Tensor& input = model.config().parallel_mlp ? hidden : middle;
  const at::Tensor x = normed(model, input, weights.mlp_norm).to(model.dtype());
  const at::Tensor gate_up = product(x, weights.gate_up, weights.gate_up_bias);
  const std::int64_t mlp = model.config().mlp_dim;
  at::Tensor active = activated(gate_up.narrow(1, 0, mlp), model.config().activation);
  if (model.config().gated_mlp) {
    active = active.mul(gate_up.narrow(1, mlp, mlp));
  }
  return middle.add(
      block_output(model, active, weights.down, weights.down_bias, weights.post_mlp_norm));
}

at::Tensor output_norm(const LoadedModel& model, const at::Tensor& hidden) {
  return normed(model, hidden, model.output_norm());
}

}  // namespace kvscope::detail
