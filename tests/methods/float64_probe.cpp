#include "float64_probe.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

namespace kvscope::test {

Float64Model::Float64Model(const ModelFile& file) : config_(file.config()) {
  const auto take = [&](Weight name, int layer) {
    const auto [rows, columns] = file.weight_shape(name, layer);
    std::vector<float> numbers(static_cast<std::size_t>(rows * columns));
    file.read(name, layer, numbers);
    at::Tensor matrix = at::empty({rows, columns}, at::kDouble);
    std::copy(numbers.begin(), numbers.end(), matrix.mutable_data_ptr<double>());
    weights_[{name, layer}] = columns == 1 ? matrix.flatten() : matrix;
  };
  for (const Weight name : {Weight::token_embedding, Weight::output_norm, Weight::output}) {
    take(name, -1);
  }
  for (int layer = 0; layer < config_.shape.layers; ++layer) {
    for (const Weight name :
         {Weight::attention_norm, Weight::wq, Weight::wk, Weight::wv, Weight::wo, Weight::mlp_norm,
          Weight::mlp_gate, Weight::mlp_up, Weight::mlp_down}) {
      take(name, layer);
    }
  }
}

at::Tensor Float64Model::norm(const at::Tensor& x, Weight name, int layer) const {
  return x * at::rsqrt(x.square().mean(-1, true) + config_.norm_epsilon) * weight(name, layer);
}

at::Tensor Float64Model::rotated(const at::Tensor& x, const at::Tensor& positions) const {
  const at::Tensor frequency = at::tensor(config_.shape.rope_of(0).inverse_frequency, at::kDouble);
  const at::Tensor angle = positions.unsqueeze(-1) * frequency;
  const auto halves = x.chunk(2, -1);
  return at::cat({halves[0] * angle.cos() - halves[1] * angle.sin(),
                  halves[1] * angle.cos() + halves[0] * angle.sin()},
                 -1);
}

std::vector<ProbedLayer> Float64Model::probe(const std::vector<CachedLayer>& cache,
                                             std::span<const std::int32_t> ids) const {
  const at::AutoGradMode recording(true);
  const ModelShape& shape = config_.shape;
  const auto rows = static_cast<std::int64_t>(ids.size());
  const at::Tensor index = at::tensor(std::vector<std::int64_t>(ids.begin(), ids.end()));
  at::Tensor x = weight(Weight::token_embedding, -1).index_select(0, index);
  std::vector<ProbedLayer> seen;
  std::vector<at::Tensor> keys;
  std::vector<at::Tensor> outputs;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const CachedLayer& past = cache[static_cast<std::size_t>(layer)];
    const at::Tensor h = norm(x, Weight::attention_norm, layer);
    const auto heads = [&](Weight name, int count) {
      return at::matmul(h, weight(name, layer).t()).view({rows, count, -1}).transpose(0, 1);
    };
    const at::Tensor own = heads(Weight::wk, shape.kv_heads);
    at::Tensor key = at::cat({past.keys, own}, 1);
    if (!key.requires_grad()) {
      key.requires_grad_(true);  // the first layer: nothing before it asks for gradients
    }
    const at::Tensor value = at::cat({past.values, heads(Weight::wv, shape.kv_heads)}, 1);
    const at::Tensor counts = at::cat({past.counts, at::ones({rows}, at::kDouble)});
    const at::Tensor stands = at::cumsum(counts, 0) - counts[0];
    const at::Tensor asks = past.counts.sum() + at::arange(rows, at::kDouble);
    const at::Tensor query = rotated(heads(Weight::wq, shape.query_heads), asks);
    const at::Tensor turned = rotated(key, stands).repeat_interleave(shape.group_size(), 0);
    at::Tensor logits = at::matmul(query, turned.transpose(1, 2)) / std::sqrt(shape.head_dim);
    logits = logits.masked_fill(stands.unsqueeze(0) > asks.unsqueeze(1),
                                -std::numeric_limits<double>::infinity());
    const at::Tensor mass = at::log_softmax(logits + counts.log(), -1).exp();
    const at::Tensor output =
        at::matmul(mass, (value / counts.unsqueeze(-1)).repeat_interleave(shape.group_size(), 0));
    x = x + at::matmul(output.transpose(0, 1).reshape({rows, -1}), weight(Weight::wo, layer).t());
    const at::Tensor m = norm(x, Weight::mlp_norm, layer);
    const at::Tensor gate = at::matmul(m, weight(Weight::mlp_gate, layer).t());
    const at::Tensor up = at::matmul(m, weight(Weight::mlp_up, layer).t());
    x = x + at::matmul(gate * at::sigmoid(gate) * up, weight(Weight::mlp_down, layer).t());
    keys.push_back(key);
    outputs.push_back(output);
    seen.push_back({{}, {}, mass.detach(), output.detach(), value.detach()});
  }
  const at::Tensor logits =
      at::matmul(norm(x, Weight::output_norm, -1), weight(Weight::output, -1).t());
  const at::Tensor loss = -at::log_softmax(logits.narrow(0, 0, rows - 1), -1)
                               .gather(1, index.narrow(0, 1, rows - 1).unsqueeze(-1))
                               .mean();
  std::vector<at::Tensor> wanted = keys;
  wanted.insert(wanted.end(), outputs.begin(), outputs.end());
  const auto gradients = torch::autograd::grad({loss}, wanted);
  for (std::size_t layer = 0; layer < seen.size(); ++layer) {
    seen[layer].key_gradient = gradients[layer];
    seen[layer].output_gradient = gradients[seen.size() + layer];
  }
  return seen;
}

void RecordingRun::forward(std::span<const std::int32_t> ids, const ForwardRequest& request) {
  if (request.key_gradient != KeyGradient::none) {
    RecordedProbe probe{{}, {ids.begin(), ids.end()}, tokens_seen()};
    for (int layer = 0; layer < shape().layers; ++layer) {
      const auto evidence = run_.layer(layer);
      const SlotTable& slots = evidence->slots();
      const auto first = slots.multiplicity.begin();
      probe.cache.push_back(
          {evidence->keys(Frame::pre_rope).to(at::kDouble),
           evidence->values().to(at::kDouble),
           at::tensor(std::vector<double>(first, first + slots.slots), at::kDouble),
           {slots.token.begin(), slots.token.begin() + slots.slots}});
    }
    probes_.push_back(std::move(probe));
  }
  run_.forward(ids, request);
}

}  // namespace kvscope::test
