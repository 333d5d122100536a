#include "forward.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <fmt/format.h>

#include <algorithm>

#include "kvscope/core/error.h"
#include "kvscope/kernels/attention_stats.h"
#include "rotation.h"
#include "steps.h"

namespace kvscope::detail {
namespace {

/// Rows of the MLP that are worked on at a time: their activations stay in the outer cache.
constexpr std::int64_t mlp_block = 512;

/// Work space shared by all layers of a pass, so that its pages are touched once.
struct Workspace {
  at::Tensor normed;   ///< [rows, hidden_dim]
  at::Tensor qkv;      ///< [rows, (query_heads + 2 kv_heads) * head_dim]
  at::Tensor queries;  ///< [query_heads, rows, head_dim] float32
  at::Tensor gate_up;  ///< [mlp_block, 2 mlp_dim]
  at::Tensor active;   ///< [mlp_block, mlp_dim]
};

Workspace workspace_of(const LoadedModel& model, std::int64_t rows) {
  const ModelShape& shape = model.shape();
  const at::TensorOptions options = model.embedding().options();
  const std::int64_t block = std::min(rows, mlp_block);
  const std::int64_t mlp = model.config().mlp_dim;
  return {at::empty({rows, shape.hidden_dim}, options),
          at::empty({rows, model.layer(0).qkv.size(0)}, options),
          at::empty({shape.query_heads, rows, shape.head_dim}, options.dtype(at::kFloat)),
          at::empty({block, 2 * mlp}, options), at::empty({block, mlp}, options)};
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
        rotation_(rotation_of(model.shape().rope, input.positions, model.device())),
        space_(workspace_of(model, rows_)),
        hidden_(embed(model.embedding(), input.ids)) {}

  at::Tensor run() {
    for (int layer = 0; layer < model_.shape().layers; ++layer) {
      KVSCOPE_CHECK(watch_.stop == nullptr || !watch_.stop->load(), ErrorCode::interrupted,
                    "the run was stopped", fmt::format("layer {}", layer),
                    "start it again; nothing was written");
      run_layer(layer);
      if (watch_.progress) {
        watch_.progress(layer);
      }
    }
    at::Tensor final_rows = space_.normed.narrow(0, 0, hidden_.size(0));
    rms_norm(hidden_, model_.output_norm(), model_.config().norm_epsilon, final_rows);
    return final_rows;
  }

 private:
  void run_layer(int layer) {
    const bool last = layer + 1 == model_.shape().layers;
    // After the last layer only the newest row is read, so older rows end at its keys and values.
    const int kept_rows = last && !input_.all_rows ? 1 : rows_;
    const int watched = watch_.rows ? std::min(rows_, watch_.rows(layer, rows_)) : 0;
    project_and_append(layer);
    const at::Tensor attended = attend(layer, std::max(kept_rows, watched));
    hidden_ = hidden_.narrow(0, rows_ - kept_rows, kept_rows);
    const at::Tensor output = attended.narrow(1, attended.size(1) - kept_rows, kept_rows)
                                  .transpose(0, 1)
                                  .reshape({kept_rows, -1})
                                  .to(model_.dtype());
    add_product(output, model_.layer(layer).output, hidden_);
    run_mlp(layer);
  }

  /// Queries, keys and values of this pass; keys and values become live slots.
  void project_and_append(int layer) {
    const LayerWeights& weights = model_.layer(layer);
    rms_norm(hidden_, weights.attention_norm, model_.config().norm_epsilon, space_.normed);
    at::mm_out(space_.qkv, space_.normed, weights.qkv.t());
    LayerState& state = layers_[static_cast<std::size_t>(layer)];
    state.reserve(rows_);
    split_heads(space_.qkv, rotation_, model_.shape(), state, space_.queries);
    state.append(input_.first_token, input_.positions);
  }

  /// Attention output of the newest `count` rows: [query_heads, count, head_dim].
  at::Tensor attend(int layer, int count) {
    const ModelShape& shape = model_.shape();
    const LayerState& state = layers_[static_cast<std::size_t>(layer)];
    AttentionOptions options;
    options.scale = shape.attention_scale;
    options.softcap = shape.logit_softcap;
    options.window = shape.window_of(layer);
    options.first_query = state.longest() - count;
    options.causal_tail = count;
    const AttentionResult result = attention_with_lse(
        space_.queries.narrow(1, rows_ - count, count), state.keys().to(at::kFloat),
        state.values().to(at::kFloat), state.multiplicity(), state.lengths(), options);
    if (watch_.layer) {
      const std::int64_t key_columns = static_cast<std::int64_t>(shape.kv_heads) * shape.head_dim;
      const at::Tensor keys_pre_rope =
          space_.qkv
              .narrow(1, static_cast<std::int64_t>(shape.query_heads) * shape.head_dim, key_columns)
              .view({rows_, shape.kv_heads, shape.head_dim})
              .transpose(0, 1);
      watch_.layer({layer, space_.queries, keys_pre_rope.to(at::kFloat), result.lse});
    }
    return result.output;
  }

  void run_mlp(int layer) {
    const LayerWeights& weights = model_.layer(layer);
    for (std::int64_t first = 0; first < hidden_.size(0); first += mlp_block) {
      const std::int64_t count = std::min(mlp_block, hidden_.size(0) - first);
      at::Tensor hidden = hidden_.narrow(0, first, count);
      at::Tensor normed = space_.normed.narrow(0, 0, count);
      at::Tensor gate_up = space_.gate_up.narrow(0, 0, count);
      at::Tensor active = space_.active.narrow(0, 0, count);
      rms_norm(hidden, weights.mlp_norm, model_.config().norm_epsilon, normed);
      at::mm_out(gate_up, normed, weights.gate_up.t());
      swiglu(gate_up, active);
      add_product(active, weights.down, hidden);
    }
  }

  const LoadedModel& model_;
  std::vector<LayerState>& layers_;
  const PassInput& input_;
  const PassWatch& watch_;
  int rows_;
  Rotation rotation_;
  Workspace space_;
  at::Tensor hidden_;  ///< [rows, hidden_dim] float32 residual stream
};

}  // namespace

at::Tensor run_pass(const LoadedModel& model, std::vector<LayerState>& layers,
                    const PassInput& input, const PassWatch& watch) {
  Rollback rollback(layers);
  at::Tensor hidden = Pass(model, layers, input, watch).run();
  rollback.disarm();
  return hidden;
}

at::Tensor head_logits(const LoadedModel& model, const at::Tensor& hidden) {
  return at::linear(hidden, model.head()).to(at::kFloat);
}

}  // namespace kvscope::detail
