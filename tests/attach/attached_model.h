#pragma once

#include <ATen/ops/constant_pad_nd.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fake_model.h"
#include "kvscope/runtime/live_run.h"
#include "operators.h"
#include "recorded_run.h"

namespace kvscope::test {

/// Two layers, the second with a window of 6, and a softcap where asked.
inline std::shared_ptr<const Model> attached_model(bool window, double softcap,
                                                   const std::string& dtype = "float32") {
  auto file = std::make_shared<FakeModelFile>();
  ModelShape& shape = file->change_config().shape;
  shape.logit_softcap = softcap;
  if (window) {
    shape.layer_windows = {0, 6};
  }
  return Model::load(file, {"cpu", dtype, 2});
}

/// W_O of each layer as Hugging Face keeps it, [hidden_dim, query_heads * head_dim].
inline std::vector<at::Tensor> output_weights_of(const Model& model) {
  std::vector<at::Tensor> weights;
  const ModelShape& shape = model.shape();
  for (int layer = 0; layer < shape.layers; ++layer) {
    weights.push_back(model.output_weights(layer).permute({2, 0, 1}).reshape(
        {shape.hidden_dim, std::int64_t{shape.query_heads} * shape.head_dim}));
  }
  return weights;
}

/// Runs our own model and shows each layer of each pass to an attached capture, the way an
/// attention function of Hugging Face would: what its own recorder writes meanwhile is the
/// reference.
class AttachedModel {
 public:
  enum class Cache {
    full,     ///< every key, as a dynamic cache hands them over
    sliding,  ///< sliding layers hand over what their window can see
    padded,   ///< room for later tokens behind the real ones, as a static cache does
  };

  AttachedModel(std::shared_ptr<const Model> model, const TokenTable& prompt, int chunk,
                Cache cache, const nlohmann::json& request)
      : model_(std::move(model)),
        prompt_(prompt),
        cache_(cache),
        operators_(request, output_weights_of(*model_)) {
    options_.prefill_chunk = chunk;
    options_.hook = [this](HookPoint point, int layer, int first_token, const at::Tensor& tensor) {
      see(point, layer, first_token, tensor);
    };
    run_ = LiveRun::start(model_, prompt_, options_);
    if (chunk > 0) {
      operators_.give_prompt(prompt_.id, prompt_.context_tokens);
    }
  }

  const Operators& operators() const { return operators_; }
  LiveRun& run() { return *run_; }

  void prefill(Recorder* recorder) {
    run_->prefill(false, recorder);
    end_pass(run_->logits());
  }
  void decode(std::int32_t token, Recorder* recorder) {
    fed_ = {token};
    run_->decode(token, recorder);
    end_pass(run_->logits());
  }

 private:
  void end_pass(const at::Tensor& logits) {
    operators_.end_pass(logits.defined() ? std::optional(logits.unsqueeze(0)) : std::nullopt);
    open_ = -1;
  }

  void see(HookPoint point, int layer, int first_token, const at::Tensor& tensor) {
    if (point == HookPoint::residual_in && layer == 0) {
      if (open_ >= 0) {
        end_pass({});
      }
      open_ = first_token;
      const auto rows = static_cast<std::size_t>(tensor.size(0));
      const auto first = prompt_.id.begin() + first_token;
      operators_.begin_pass(
          fed_.empty() ? std::vector(first, first + static_cast<int>(rows)) : fed_, first_token);
    }
    seen_[point] = tensor.clone();
    if (point == HookPoint::attention_output) {
      call(layer, first_token);
    }
  }

  void call(int layer, int first_token) {
    const ModelShape& shape = model_->shape();
    SeenAttention seen;
    seen.layer = layer;
    seen.query = seen_.at(HookPoint::queries).unsqueeze(0);
    const auto rows = static_cast<int>(seen.query.size(2));
    const int tokens = first_token + rows;
    seen.window = shape.window_of(layer);
    const bool slides = cache_ == Cache::sliding && seen.window > 0;
    const int keys = slides ? std::min(tokens, seen.window - 1 + rows) : tokens;
    const auto held = [&](HookPoint point) {
      const at::Tensor all = seen_.at(point).narrow(1, tokens - keys, keys).unsqueeze(0);
      return cache_ == Cache::padded ? at::constant_pad_nd(all, {0, 0, 0, 5}, 7.0) : all;
    };
    seen.key = held(HookPoint::keys);
    seen.value = held(HookPoint::values);
    const auto columns = static_cast<int>(seen.key.size(2));
    seen.mask = built_mask(first_token, rows, tokens - keys, columns, seen.window);
    seen.scale = shape.attention_scale;
    seen.softcap = shape.logit_softcap;
    seen.output = seen_.at(HookPoint::attention_output).transpose(0, 1).unsqueeze(0);
    seen.keys_pre_rope = seen_.at(HookPoint::keys_pre_rope);
    operators_.attention(seen);
  }

  std::shared_ptr<const Model> model_;
  TokenTable prompt_;
  Cache cache_;
  Operators operators_;
  LiveRunOptions options_;
  std::unique_ptr<LiveRun> run_;
  std::vector<std::int32_t> fed_;
  std::map<HookPoint, at::Tensor> seen_;
  int open_ = -1;
};

}  // namespace kvscope::test
