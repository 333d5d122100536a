#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backward.h"
#include "kvscope/evidence/model_run.h"
#include "live_evidence.h"

namespace kvscope::detail {

/// Hands the layers of a pass to whoever observes it: on the way forward, or with their gradients
/// on the way back.
class PassObserver {
 public:
  /// `moment.layer` is filled in; `moment.tokens_seen` counts the tokens of the pass.
  PassObserver(std::shared_ptr<const LoadedModel> model, const std::vector<LayerState>& layers,
               const ForwardRequest& request, int prompt_tokens, const Moment& moment)
      : model_(std::move(model)),
        layers_(layers),
        request_(request),
        prompt_tokens_(prompt_tokens),
        moment_(moment) {}

  void layer(const LayerPass& pass);
  /// After the pass; does nothing without `key_gradient`. `normed` are its final states.
  void back(std::span<const std::int32_t> ids, const at::Tensor& normed,
            const std::atomic<bool>* stop) const;

 private:
  void show(int layer, const StatisticsPass& pass, const PassGradient& gradient) const;

  std::shared_ptr<const LoadedModel> model_;
  const std::vector<LayerState>& layers_;
  const ForwardRequest& request_;
  int prompt_tokens_;
  Moment moment_;
  PassTrace trace_;
};

}  // namespace kvscope::detail
