#include "live_evidence.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "attention_plain.h"
#include "attention_rows.h"
#include "kvscope/core/error.h"
#include "kvscope/kernels/attention_stats.h"
#include "kvscope/kernels/projected_norms.h"

namespace kvscope::detail {

LiveEvidence::LiveEvidence(std::shared_ptr<const LoadedModel> model, const LayerState& state,
                           const LayerStatistics& statistics, const Moment& moment,
                           int prompt_tokens)
    : model_(std::move(model)),
      state_(state),
      statistics_(statistics),
      moment_(moment),
      prompt_tokens_(prompt_tokens),
      slots_(state.slots()) {}

void LiveEvidence::of_pass(const PassGradient& gradient, const at::Tensor& sum) {
  of_pass_ = true;
  pass_sum_ = sum;
  gradient_ = gradient;
}

at::Tensor LiveEvidence::key_gradient() const {
  return gradient_.keys.defined() ? gradient_.keys : LayerEvidence::key_gradient();
}

at::Tensor LiveEvidence::output_gradient() const {
  return gradient_.output.defined() ? gradient_.output : LayerEvidence::output_gradient();
}

template <typename Compute>
at::Tensor LiveEvidence::remembered(const char* name, int argument, const Compute& compute) const {
  const at::NoGradGuard no_grad;
  at::Tensor& entry = memo_[{name, argument}];
  if (!entry.defined()) {
    entry = compute();
  }
  return entry;
}

at::Tensor LiveEvidence::keys(Frame frame) const {
  return remembered("keys", static_cast<int>(frame), [&] {
    if (frame == state_.form().keys) {
      return state_.stored_keys().to(at::kFloat).contiguous();
    }
    const at::Tensor stored = state_.keys().to(at::kFloat).contiguous();
    if (frame == Frame::post_rope) {
      return stored;
    }
    return state_.turned(stored, shape().rope_of(moment_.layer), true, prompt_tokens_);
  });
}

at::Tensor LiveEvidence::values() const {
  return remembered("values", 0,
                    [&] { return state_.stored_values().to(at::kFloat).contiguous(); });
}

void LiveEvidence::check_newest(int newest) const {
  const auto kept = statistics_.newest.count();
  KVSCOPE_CHECK(newest > 0 && newest <= kept, ErrorCode::missing_data,
                fmt::format("the newest {} queries are needed", newest),
                fmt::format("live run, layer {} (keeps {})", moment_.layer, kept),
                "run a longer prompt, or keep more queries with --query-window");
}

at::Tensor LiveEvidence::queries(int newest) const {
  check_newest(newest);
  const auto kept = statistics_.newest.count();
  return remembered("queries", newest, [&] {
    return statistics_.newest.queries().narrow(1, kept - newest, newest).contiguous();
  });
}

at::Tensor LiveEvidence::attention(int newest) const {
  check_newest(newest);
  return remembered("attention", newest, [&] {
    if (gradient_.attention.queries.defined() && newest == gradient_.attention.queries.size(1)) {
      return attention_probabilities(gradient_.attention);
    }
    const std::vector<std::int32_t> positions(statistics_.newest.positions().end() - newest,
                                              statistics_.newest.positions().end());
    return attention_rows(queries(newest), positions, state_, shape(), moment_.layer);
  });
}

at::Tensor LiveEvidence::columns(const at::Tensor& statistic, const char* name) const {
  KVSCOPE_CHECK(statistic.defined(), ErrorCode::missing_data,
                fmt::format("{} over all queries was not collected", name),
                fmt::format("live run, layer {}", moment_.layer), "run the prompt with statistics");
  return remembered(name, 0, [&] {
    at::Tensor live = at::zeros({shape().query_heads, slots_.slots}, statistic.options());
    const std::int64_t known = std::min<std::int64_t>(slots_.slots, statistic.size(1));
    live.narrow(1, 0, known).copy_(statistic.narrow(1, 0, known));
    return live;
  });
}

at::Tensor LiveEvidence::attention_sum() const {
  return columns(statistics_.sum, "attention_sum");
}

at::Tensor LiveEvidence::decode_attention_sum() const {
  if (moment_.phase == Phase::prefill) {
    return at::zeros({shape().query_heads, slots_.slots},
                     at::TensorOptions(at::kFloat).device(state_.keys().device()));
  }
  return columns(statistics_.decode_sum, "decode_attention_sum");
}

at::Tensor LiveEvidence::attention_sum_squares() const {
  return columns(statistics_.sum_squares, "attention_sum_squares");
}

at::Tensor LiveEvidence::attention_max() const {
  return columns(statistics_.max, "attention_max");
}

at::Tensor LiveEvidence::window_rows(int window) const {
  return attention(std::min(window, statistics_.queries_seen));
}

/// Columns of the pass without its rows: the two-pass kernel, which knows slots as positions. exp
/// of logit less LSE is the probability of one token of a slot.
at::Tensor LiveEvidence::pass_sum() const {
  AttentionStatsOptions options;
  options.scale = shape().attention_scale;
  options.softcap = shape().logit_softcap;
  options.first_query = slots_.slots - statistics_.newest.count();
  options.entropy = false;
  options.last_query = false;
  const at::Tensor sum = attention_stats(statistics_.newest.queries(), state_.keys().to(at::kFloat),
                                         statistics_.newest.lse().contiguous(), options)
                             .sum;
  const at::Tensor counts = state_.multiplicity();
  return counts.defined() ? sum.mul(counts.repeat_interleave(shape().group_size(), 0)) : sum;
}

at::Tensor LiveEvidence::window_sum(int window) const {
  return remembered("window_sum", window, [&] {
    if (pass_sum_.defined() && window == statistics_.queries_seen) {
      return pass_sum_;
    }
    const bool whole_pass = of_pass_ && window == statistics_.queries_seen && slots_.uniform() &&
                            shape().window_of(moment_.layer) == 0;
    return whole_pass ? pass_sum() : window_rows(window).sum(1);
  });
}

at::Tensor LiveEvidence::window_sum_squares(int window) const {
  return remembered("window_sum_squares", window,
                    [&] { return window_rows(window).square().sum(1); });
}

at::Tensor LiveEvidence::last_query() const {
  return attention(1).select(1, 0);
}

at::Tensor LiveEvidence::lse(int newest) const {
  check_newest(newest);
  const std::int64_t kept = statistics_.newest.count();
  return remembered("lse", newest, [&] {
    return statistics_.newest.lse().narrow(1, kept - newest, newest).contiguous();
  });
}

at::Tensor LiveEvidence::key_norm() const {
  return remembered("key_norm", 0,
                    [&] { return at::linalg_vector_norm(keys(Frame::post_rope), 2, {-1}); });
}

at::Tensor LiveEvidence::projected_value_norm(int order) const {
  KVSCOPE_CHECK(order == 1 || order == 2, ErrorCode::usage, fmt::format("norm of order {}", order),
                "projected_value_norm", "use 1 or 2");
  return remembered("projected_value_norm", order, [&] {
    return projected_norms(values(), order == 2 ? output_factor() : output_weights(), order);
  });
}

}  // namespace kvscope::detail
