#include "observe.h"

namespace kvscope::detail {

void PassObserver::layer(const LayerPass& pass) {
  if (request_.key_gradient != KeyGradient::none) {
    trace_.keep(pass);
  } else {
    show(pass.layer, {pass.queries, pass.lse, pass.positions, false, pass.stats}, {});
  }
}

void PassObserver::back(std::span<const std::int32_t> ids, const at::Tensor& normed,
                        const std::atomic<bool>* stop) const {
  if (request_.key_gradient == KeyGradient::none) {
    return;
  }
  const DifferentiableModel model(*model_, request_.key_gradient == KeyGradient::float64);
  const auto watch = [&](const LayerGradient& gradient) {
    const PassTrace::Layer& kept = trace_.layers()[static_cast<std::size_t>(gradient.layer)];
    show(gradient.layer, {kept.queries, kept.lse, kept.positions, false, kept.stats},
         {gradient.keys, gradient.output.contiguous(),
          model.float64() ? gradient.attention : AttentionTrace{}});
  };
  if (!model.float64()) {
    run_backward(model, layers_, trace_, ids, normed, watch, stop);
    return;
  }
  const Float64Pass pass = in_float64(model, layers_, trace_, ids, stop);
  run_backward(model, layers_, pass.trace, ids, pass.normed, watch, stop);
}

void PassObserver::show(int layer, const StatisticsPass& pass, const PassGradient& gradient) const {
  LayerStatistics seen;
  remember_queries(seen, pass, static_cast<int>(pass.queries.size(1)));
  Moment moment = moment_;
  moment.layer = layer;
  LiveEvidence evidence(model_, layers_[static_cast<std::size_t>(layer)], seen, moment,
                        prompt_tokens_);
  evidence.of_pass(gradient, pass.stats.sum);
  request_.observe(evidence);
}

}  // namespace kvscope::detail
