#include "forward.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "attention_rows.h"
#include "kvscope/core/error.h"
#include "kvscope/kernels/attention_stats.h"
#include "out_of_memory.h"
#include "rotation.h"
#include "steps.h"

namespace kvscope::detail {
namespace {

/// Rows of the MLP that are worked on at a time: their activations stay in the outer cache.
constexpr std::int64_t mlp_block = 512;

/// Work space shared by all layers of a pass, so that its pages are touched once.
struct Workspace {
  at::Tensor normed;   ///< [rows, hidden_dim]
  at::Tensor queries;  ///< [query_heads, rows, head_dim] float32
  at::Tensor active;   ///< [block, mlp_dim]
};

/// `count` of `tensor` from `first` on along `dim`; the tensor itself where that is all of it.
at::Tensor part(const at::Tensor& tensor, std::int64_t dim, std::int64_t first,
                std::int64_t count) {
  return count == tensor.size(dim) ? tensor : tensor.narrow(dim, first, count);
}

Workspace workspace_of(const LoadedModel& model, std::int64_t rows, std::int64_t block) {
  const ModelShape& shape = model.shape();
  const at::TensorOptions options = model.tensors();
  return {at::empty({rows, shape.hidden_dim}, options),
          at::empty({shape.query_heads, rows, shape.head_dim}, options.dtype(at::kFloat)),
          at::empty({block, model.config().mlp_dim}, options)};
}

/// Takes back what a failed pass appended.
class Rollback {
 public:
  explicit Rollback(std::vector<LayerState>& layers) : layers_(layers) {
    for (const LayerState& layer : layers_) {
      before_.push_back(layer.length(0));
    }
  }
  ~Rollback() {
    for (std::size_t layer = 0; armed_ && layer < layers_.size(); ++layer) {
      layers_[layer].drop_newest(layers_[layer].length(0) - before_[layer]);
    }
  }
  Rollback(const Rollback&) = delete;
  Rollback& operator=(const Rollback&) = delete;
  void disarm() { armed_ = false; }

 private:
  std::vector<LayerState>& layers_;
  std::vector<int> before_;
  bool armed_ = true;
};

/// One pass: the state its layers share.
class Pass {
 public:
  Pass(const LoadedModel& model, std::vector<LayerState>& layers, const PassInput& input,
       const PassWatch& watch)
      : model_(model),
        layers_(layers),
        input_(input),
        watch_(watch),
        rows_(static_cast<int>(input.ids.size())),
        mlp_block_(watch.hook ? rows_ : std::min<std::int64_t>(rows_, mlp_block)),
        positions_(input.positions.begin(), input.positions.end()),
        rotations_(model.shape(), input.positions, input.prompt_tokens, model.device()),
        space_(workspace_of(model, rows_, mlp_block_)),
        hidden_(embed(model.embedding(), input.ids, model.config().embedding_scale)) {}

  /// `layer` always says where the pass stands.
  at::Tensor run(int& layer) {
    show(HookPoint::embedding, model_.shape().layers, hidden_);
    for (layer = 0; layer < model_.shape().layers; ++layer) {
      KVSCOPE_CHECK(watch_.stop == nullptr || !watch_.stop->load(), ErrorCode::interrupted,
                    "the run was stopped", fmt::format("layer {}", layer),
                    "start it again; nothing was written");
      run_layer(layer);
      if (watch_.progress) {
        watch_.progress(layer);
      }
    }
    at::Tensor final_rows = part(space_.normed, 0, 0, hidden_.size(0));
    normalise(hidden_, model_.output_norm(), model_.config(), final_rows);
    show(HookPoint::final_norm, model_.shape().layers, final_rows);
    return final_rows;
  }

 private:
  void show(HookPoint point, int layer, const at::Tensor& tensor) const {
    if (watch_.hook) {
      watch_.hook(point, layer, tensor);
    }
  }

  void run_layer(int layer) {
    const LayerWeights& weights = model_.layer(layer);
    const bool last = layer + 1 == model_.shape().layers;
    // After the last layer only the newest row is read, so older rows end at its keys and values.
    const int kept_rows = last && !input_.all_rows ? 1 : rows_;
    const int watched = watch_.rows ? std::min(rows_, watch_.rows(layer, rows_)) : 0;
    show(HookPoint::residual_in, layer, hidden_);
    project_and_append(layer);
    const at::Tensor attended = attend(layer, std::max(kept_rows, watched));
    hidden_ = part(hidden_, 0, rows_ - kept_rows, kept_rows);
    const at::Tensor heads = part(attended, 1, attended.size(1) - kept_rows, kept_rows);
    show(HookPoint::attention_output, layer, heads);
    const at::Tensor mlp_input = model_.config().parallel_mlp ? hidden_.clone() : hidden_;
    add_block(HookPoint::block_attention, layer,
              heads.transpose(0, 1).reshape({kept_rows, -1}).to(model_.dtype()), weights.output,
              weights.output_bias, weights.post_attention_norm, hidden_);
    show(HookPoint::residual_mid, layer, hidden_);
    run_mlp(layer, mlp_input);
    show(HookPoint::residual_out, layer, hidden_);
  }

  /// Heads [first, first + count) of the projections of this pass: [count, rows, head_dim], a view.
  at::Tensor projected(int first, int count) const {
    const std::int64_t head_dim = model_.shape().head_dim;
    return qkv_.narrow(1, first * head_dim, count * head_dim)
        .view({rows_, count, head_dim})
        .transpose(0, 1);
  }

  at::Tensor keys_pre_rope() const {
    return projected(model_.shape().query_heads, model_.shape().kv_heads);
  }

  void show_projections(HookPoint queries, HookPoint keys, int layer) const {
    if (watch_.hook) {
      show(queries, layer, projected(0, model_.shape().query_heads));
      show(keys, layer, keys_pre_rope());
    }
  }

  /// Rotation of this pass's rows in one layer, which may count positions of its own
  /// (`CacheForm::Positions`); `positions_` are then those.
  Rotation place(int layer, const LayerState& state) {
    const int shift = state.next_position(input_.positions.front()) - input_.positions.front();
    std::transform(input_.positions.begin(), input_.positions.end(), positions_.begin(),
                   [shift](std::int32_t position) { return position + shift; });
    return shift == 0 ? rotations_.of(layer)
                      : rotation_of(model_.shape().rope_of(layer), positions_, model_.device(),
                                    input_.prompt_tokens);
  }

  /// Queries, keys and values of this pass; keys and values become live slots.
  void project_and_append(int layer) {
    const LayerWeights& weights = model_.layer(layer);
    const ModelShape& shape = model_.shape();
    const double epsilon = model_.config().norm_epsilon;
    normalise(hidden_, weights.attention_norm, model_.config(), space_.normed);
    show(HookPoint::attention_input, layer, space_.normed);
    qkv_ = multiply(space_.normed, weights.qkv, weights.qkv_bias);
    show_projections(HookPoint::queries_raw, HookPoint::keys_raw, layer);
    if (weights.query_norm.defined()) {
      norm_heads(qkv_, 0, shape.query_heads, weights.query_norm, epsilon);
    }
    if (weights.key_norm.defined()) {
      norm_heads(qkv_, static_cast<std::int64_t>(shape.query_heads) * shape.head_dim,
                 shape.kv_heads, weights.key_norm, epsilon);
    }
    show_projections(HookPoint::queries_pre_rope, HookPoint::keys_pre_rope, layer);
    LayerState& state = layers_[static_cast<std::size_t>(layer)];
    const Rotation rotation = place(layer, state);
    state.reserve(rows_);
    split_heads(qkv_, rotation, shape, state, space_.queries);
    if (state.keeps_raw_keys()) {
      state.write_raw_keys(keys_pre_rope());
    }
    state.append(input_.first_token, positions_);
    show(HookPoint::queries, layer, space_.queries);
    show(HookPoint::keys, layer, state.keys());
    show(HookPoint::values, layer, state.values());
  }

  AttentionWanted wanted(int layer, int count) const {
    return watch_.statistics && count == rows_ ? watch_.statistics(layer)
                                               : AttentionWanted::nothing();
  }

  /// Attention of the newest `count` rows, with what is wanted of it where the kernel knows it.
  AttentionPass attend_to(int layer, int count, const at::Tensor& keys, const at::Tensor& values) {
    const ModelShape& shape = model_.shape();
    const LayerState& state = layers_[static_cast<std::size_t>(layer)];
    const at::Tensor queries = part(space_.queries, 1, rows_ - count, count);
    AttentionPass pass;
    if (state.cut() && shape.window_of(layer) > 0) {  // slots are no longer the tokens in a row
      const AttentionResult result =
          attend_by_position(queries,
                             std::span<const std::int32_t>(positions_)
                                 .subspan(static_cast<std::size_t>(rows_ - count)),
                             state, shape, layer);
      pass.output = result.output;
      pass.stats.lse = result.lse;
      return pass;
    }
    const at::Tensor multiplicity = state.multiplicity();
    const at::Tensor lengths = state.lengths();
    const AttentionWanted wanted = this->wanted(layer, count);
    const bool slots = multiplicity.defined() || lengths.defined();
    if (wanted.any() && (!slots || queries.is_cpu())) {
      AttentionStatsOptions options{wanted};
      options.scale = shape.attention_scale;
      options.softcap = shape.logit_softcap;
      options.window = shape.window_of(layer);
      options.first_query = state.longest() - count;
      return attention_with_stats(queries, keys, values, multiplicity, lengths, options);
    }
    AttentionOptions options;
    options.scale = shape.attention_scale;
    options.softcap = shape.logit_softcap;
    options.window = shape.window_of(layer);
    options.first_query = state.longest() - count;
    options.causal_tail = count;
    const AttentionResult result =
        attention_with_lse(queries, keys, values, multiplicity, lengths, options);
    pass.output = result.output;
    pass.stats.lse = result.lse;
    return pass;
  }

  /// Attention output of the newest `count` rows: [query_heads, count, head_dim].
  at::Tensor attend(int layer, int count) {
    // Views are made before the cache is read: behind that, the code that makes them would have to
    // come from memory again.
    const LayerState& state = layers_[static_cast<std::size_t>(layer)];
    const at::Tensor keys = state.keys();
    const at::Tensor values = state.values();
    const AttentionPass pass = attend_to(layer, count, keys, values);
    if (watch_.layer) {
      const at::Tensor raw = watch_.keys_pre_rope ? keys_pre_rope().to(at::kFloat) : at::Tensor();
      watch_.layer({layer, space_.queries, raw, pass.stats.lse, pass.output, hidden_, positions_,
                    pass.stats, keys, values});
    }
    return pass.output;
  }

  /// hidden += norm(x weight^T + bias), without a norm where there is none.
  void add_block(HookPoint point, int layer, const at::Tensor& x, const WeightMatrix& weight,
                 const at::Tensor& bias, const NormWeights& norm, at::Tensor& hidden) {
    if (!norm.defined() && !watch_.hook) {
      add_product(x, weight, hidden);
      if (bias.defined()) {
        hidden.add_(bias);
      }
      return;
    }
    at::Tensor output = weight.product(x).to(at::kFloat);
    if (bias.defined()) {
      output.add_(bias);
    }
    show(point, layer, output);
    if (norm.defined()) {
      at::Tensor normed = at::empty_like(output);
      normalise(output, norm, model_.config(), normed);
      output = normed;
    }
    hidden.add_(output);
  }

  /// Adds the MLP of `input` to the residual stream; `input` may be the stream itself.
  void run_mlp(int layer, const at::Tensor& input) {
    const LayerWeights& weights = model_.layer(layer);
    for (std::int64_t first = 0; first < hidden_.size(0); first += mlp_block_) {
      const std::int64_t count = std::min(mlp_block_, hidden_.size(0) - first);
      at::Tensor hidden = part(hidden_, 0, first, count);
      at::Tensor normed = part(space_.normed, 0, 0, count);
      at::Tensor active = part(space_.active, 0, 0, count);
      normalise(part(input, 0, first, count), weights.mlp_norm, model_.config(), normed);
      show(HookPoint::mlp_input, layer, normed);
      activate(multiply(normed, weights.gate_up, weights.gate_up_bias), model_.config().activation,
               active);
      add_block(HookPoint::mlp_output, layer, active, weights.down, weights.down_bias,
                weights.post_mlp_norm, hidden);
    }
  }

  const LoadedModel& model_;
  std::vector<LayerState>& layers_;
  const PassInput& input_;
  const PassWatch& watch_;
  int rows_;
  std::int64_t mlp_block_;
  std::vector<std::int32_t> positions_;  ///< [rows] of the layer at hand
  PassRotations rotations_;
  Workspace space_;
  at::Tensor qkv_;     ///< [rows, (query_heads + 2 kv_heads) * head_dim] of the layer at hand
  at::Tensor hidden_;  ///< [rows, hidden_dim] float32 residual stream
};

}  // namespace

at::Tensor run_pass(const LoadedModel& model, std::vector<LayerState>& layers,
                    const PassInput& input, const PassWatch& watch) {
  // A pass is hundreds of small operators; without autograd's layers each takes half as long.
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  Rollback rollback(layers);
  at::Tensor hidden;
  int layer = -1;
  const auto where = [&] {
    return fmt::format("{}, tokens {} to {}",
                       layer < 0 ? "before the first layer"
                                 : fmt::format("layer {} of {}", layer, model.shape().layers),
                       input.first_token, input.first_token + std::ssize(input.ids) - 1);
  };
  name_out_of_memory([&] { hidden = Pass(model, layers, input, watch).run(layer); }, where);
  rollback.disarm();
  return hidden;
}

at::Tensor head_logits(const LoadedModel& model, const at::Tensor& hidden) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  at::Tensor logits = multiply(hidden, model.head(), {}).to(at::kFloat);
  if (const double cap = model.config().output_softcap; cap > 0) {
    logits.div_(cap).tanh_().mul_(cap);
  }
  return logits;
}

}  // namespace kvscope::detail
