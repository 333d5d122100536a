#include "fake_run.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <utility>

#include "kvscope/core/error.h"

namespace kvscope::testing {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

/// Evidence of a FakeLayer: plain float64 expressions over the whole attention map.
class FakeEvidence : public LayerEvidence {
 public:
  FakeEvidence(const ModelShape& shape, int layer, const FakeRun& run, FakeLayer tables)
      : shape_(shape),
        layer_(layer),
        tokens_(run.sizes().tokens),
        padding_(run.padding),
        decode_rows_(run.decode_rows),
        tables_(std::move(tables)) {
    const int tokens = tokens_;
    const int padding = padding_;
    slots_ = SlotTable::full(shape.kv_heads, tokens);
    if (padding > 0) {
      pad_slots();
    }
  }

  const ModelShape& shape() const override { return shape_; }
  Moment moment() const override { return {layer_, tokens_, decode_rows_, Phase::prefill}; }
  const SlotTable& slots() const override { return slots_; }

  at::Tensor keys(Frame frame) const override {
    if (frame == Frame::pre_rope) {
      return padded(tables_.keys_pre_rope.defined() ? tables_.keys_pre_rope : tables_.keys.flip(-1),
                    1);
    }
    return padded(tables_.keys, 1);
  }
  at::Tensor values() const override { return padded(tables_.values, 1); }
  at::Tensor queries(int newest) const override {
    return tables_.queries.narrow(1, tokens_ - newest, newest).contiguous();
  }
  at::Tensor attention(int newest) const override {
    return padded(map().narrow(1, tokens_ - newest, newest), 2);
  }
  at::Tensor attention_sum() const override { return padded(map().sum(1), 1); }
  at::Tensor decode_attention_sum() const override {
    return padded(map().narrow(1, tokens_ - decode_rows_, decode_rows_).sum(1), 1);
  }
  at::Tensor attention_sum_squares() const override { return padded(map().square().sum(1), 1); }
  at::Tensor attention_max() const override { return padded(map().amax(1), 1); }
  at::Tensor window_sum(int window) const override {
    return padded(map().narrow(1, tokens_ - window, window).sum(1), 1);
  }
  at::Tensor window_sum_squares(int window) const override {
    return padded(map().narrow(1, tokens_ - window, window).square().sum(1), 1);
  }
  at::Tensor last_query() const override { return padded(map().select(1, tokens_ - 1), 1); }
  at::Tensor lse(int newest) const override {
    return at::logsumexp(logits(), -1).narrow(1, tokens_ - newest, newest).to(at::kFloat);
  }
  at::Tensor key_norm() const override {
    return padded(tables_.keys.to(at::kDouble).norm(2, {-1}), 1);
  }
  at::Tensor projected_value_norm(int order) const override {
    const at::Tensor values = tables_.values.to(at::kDouble).repeat_interleave(group(), 0);
    const at::Tensor projected = at::matmul(values, tables_.output_weights.to(at::kDouble));
    return padded(projected.norm(order, {-1}), 1);
  }
  at::Tensor output_factor() const override { return output_weights(); }
  at::Tensor output_weights() const override { return tables_.output_weights; }
  std::uint64_t random_seed() const override { return 7; }

 private:
  std::int64_t group() const { return shape_.group_size(); }

  at::Tensor padded(const at::Tensor& tensor, int axis) const {
    const at::Tensor single = tensor.to(at::kFloat);
    std::vector<std::int64_t> pad(static_cast<std::size_t>(2 * (single.dim() - axis)), 0);
    pad[pad.size() - 1] = padding_;
    return at::constant_pad_nd(single, pad, nan).contiguous();
  }

  void pad_slots() {
    SlotTable wide;
    wide.kv_heads = slots_.kv_heads;
    wide.slots = tokens_ + padding_;
    wide.length = slots_.length;
    for (int kv_head = 0; kv_head < wide.kv_heads; ++kv_head) {
      for (int slot = 0; slot < wide.slots; ++slot) {
        const bool live = slot < tokens_;
        wide.token.push_back(live ? slot : -1);
        wide.position.push_back(live ? slot : -1);
        wide.multiplicity.push_back(live ? 1.0F : 0.0F);
      }
    }
    slots_ = std::move(wide);
  }

  /// Masked logits [query_heads, tokens, tokens] in float64.
  at::Tensor logits() const {
    const at::Tensor keys = tables_.keys.to(at::kDouble).repeat_interleave(group(), 0);
    const at::Tensor logits =
        at::matmul(tables_.queries.to(at::kDouble), keys.transpose(1, 2)) * shape_.attention_scale;
    const at::Tensor token = at::arange(tokens_, at::kLong);
    const at::Tensor distance = token.unsqueeze(1) - token;
    at::Tensor hidden = distance < 0;
    if (const int window = shape_.window_of(layer_); window > 0) {
      hidden = hidden | (distance >= window);
    }
    return logits.masked_fill(hidden, -infinity);
  }

  const at::Tensor& map() const {
    if (!map_.defined()) {
      map_ = tables_.attention.defined() ? tables_.attention.to(at::kDouble)
                                         : at::softmax(logits(), -1);
    }
    return map_;
  }

  const ModelShape& shape_;
  int layer_;
  int tokens_;
  int padding_;
  int decode_rows_;
  FakeLayer tables_;
  SlotTable slots_;
  mutable at::Tensor map_;
};

}  // namespace

FakeRun::FakeRun(const FakeSizes& sizes, std::vector<FakeLayer> layers)
    : sizes_(sizes), layers_(std::move(layers)) {
  shape_.layers = sizes.layers;
  shape_.query_heads = sizes.query_heads;
  shape_.kv_heads = sizes.kv_heads;
  shape_.head_dim = sizes.head_dim;
  shape_.hidden_dim = sizes.hidden_dim;
  shape_.vocabulary = 10;
  shape_.rope.dims = sizes.head_dim;
  for (int band = 0; band < sizes.head_dim / 2; ++band) {
    shape_.rope.inverse_frequency.push_back(std::pow(10000.0, -2.0 * band / sizes.head_dim));
  }
  shape_.attention_scale = 1.0 / std::sqrt(sizes.head_dim);
  for (int token = 0; token < sizes.tokens; ++token) {
    tokens_.append(token % 10, token, Segment::context, "t");
  }
  tokens_.prompt_tokens = sizes.tokens;
  tokens_.context_tokens = sizes.tokens;
}

std::unique_ptr<LayerEvidence> FakeRun::layer(int layer) {
  ++layers_asked;
  return std::make_unique<FakeEvidence>(shape_, layer, *this, tables(layer));
}

void FakeRun::forward(std::span<const std::int32_t>, const ForwardRequest&) {
  throw Error(ErrorCode::unsupported, "a fake run has no model", "fake run", "decide only");
}
void FakeRun::apply(const Decision&) {
  throw Error(ErrorCode::unsupported, "a fake run has no cache", "fake run", "decide only");
}
at::Tensor FakeRun::logits() {
  throw Error(ErrorCode::unsupported, "a fake run has no model", "fake run", "decide only");
}

at::Tensor generated(std::uint32_t seed, at::IntArrayRef sizes, double scale) {
  at::Tensor tensor = at::empty(sizes, at::kFloat);
  float* cell = tensor.mutable_data_ptr<float>();
  std::uint32_t state = seed;
  for (std::int64_t at = 0; at < tensor.numel(); ++at) {
    state = 1664525U * state + 1013904223U;
    cell[at] = static_cast<float>((static_cast<double>(state) / 4294967296.0 * 2.0 - 1.0) * scale);
  }
  return tensor;
}

FakeRun generated_run(const FakeSizes& sizes, std::uint32_t seed) {
  std::vector<FakeLayer> layers;
  for (int layer = 0; layer < sizes.layers; ++layer) {
    const std::uint32_t first = seed + 10U * static_cast<std::uint32_t>(layer);
    FakeLayer tables;
    tables.queries = generated(first + 1, {sizes.query_heads, sizes.tokens, sizes.head_dim}, 3.0);
    tables.keys = generated(first + 2, {sizes.kv_heads, sizes.tokens, sizes.head_dim});
    tables.values = generated(first + 3, {sizes.kv_heads, sizes.tokens, sizes.head_dim});
    tables.output_weights =
        generated(first + 4, {sizes.query_heads, sizes.head_dim, sizes.hidden_dim}, 0.5);
    layers.push_back(std::move(tables));
  }
  return {sizes, std::move(layers)};
}

FakeRun attention_run(const FakeSizes& sizes, const std::vector<float>& attention) {
  FakeLayer tables;
  tables.queries = at::zeros({sizes.query_heads, sizes.tokens, sizes.head_dim});
  tables.keys = at::zeros({sizes.kv_heads, sizes.tokens, sizes.head_dim});
  tables.values = at::zeros({sizes.kv_heads, sizes.tokens, sizes.head_dim});
  tables.output_weights = at::eye(sizes.head_dim, sizes.hidden_dim)
                              .expand({sizes.query_heads, sizes.head_dim, sizes.hidden_dim})
                              .contiguous();
  tables.attention = table({sizes.query_heads, sizes.tokens, sizes.tokens}, attention);
  return {sizes, {tables}};
}

at::Tensor table(at::IntArrayRef sizes, const std::vector<float>& numbers) {
  const at::Tensor tensor = at::empty(sizes, at::kFloat);
  KVSCOPE_CHECK(tensor.numel() == static_cast<std::int64_t>(numbers.size()), ErrorCode::usage,
                "numbers and sizes of a table differ", "test", "count again");
  return at::from_blob(const_cast<float*>(numbers.data()), sizes, at::kFloat).clone();
}

}  // namespace kvscope::testing
