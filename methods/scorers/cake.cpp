#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include <algorithm>

#include "allocators/allocators.h"
#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Mean attention of the newest queries plus how much it varies among them, smoothed along tokens.
class Cake : public Scorer {
 public:
  explicit Cake(const Arguments& arguments)
      : window_(arguments.integer("window")),
        gamma_(arguments.real("gamma")),
        pool_(arguments.integer("pool")) {}

  LayerScores score(const LayerEvidence& evidence, bool terms) const override {
    const int tokens = live_slots(evidence);
    const int candidates = tokens - window_;
    if (candidates <= 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, none.unsqueeze(0).expand({2, none.size(0), tokens})};
    }
    const at::Tensor sum = columns(evidence.window_sum(window_), candidates).to(at::kDouble);
    const at::Tensor squares =
        columns(evidence.window_sum_squares(window_), candidates).to(at::kDouble);
    const at::Tensor mean = sum / window_;
    const at::Tensor variance = (squares - sum * mean).clamp_min(0) / (window_ - 1);
    const at::Tensor level = smooth(evidence, mean);
    const at::Tensor shift = smooth(evidence, variance * gamma_);
    LayerScores result{widen(level + shift, tokens), {}};
    if (terms) {
      result.terms = at::stack({widen(level, tokens), widen(shift, tokens)});
    }
    return result;
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(tokens - window_, tokens, Reason::observation_window);
    return protection;
  }

  int queries_needed(int) const override { return window_; }

 private:
  at::Tensor smooth(const LayerEvidence& evidence, const at::Tensor& per_query_head) const {
    return reduce_group(pool_tokens(per_query_head.to(at::kFloat), pool_, "avg"),
                        evidence.shape().kv_heads, "mean");
  }

  int window_;
  double gamma_;
  int pool_;
};

}  // namespace

PieceEntry cake_entry() {
  PieceEntry entry;
  entry.info.name = "cake";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary =
      "keeps what the newest queries attend to steadily or ever more differently; layers whose "
      "attention spreads and shifts get more slots";
  entry.info.paper = "Qin et al. 2025, arXiv:2503.12491";
  entry.info.departures =
      "layers are shared out once, when all are read, which the authors' cascade reaches layer by "
      "layer up to rounding; the authors leave a prompt of up to budget + window tokens alone, "
      "ours "
      "is cut to the budget; tau1 and tau2 are theirs for each model and budget, (1, 1) elsewhere";
  entry.info.expands_to = "cake scores | cascade";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("window", 32, "2..", "queries",
                        "more of the newest queries vote, and more of the newest tokens stay"),
      real_parameter("gamma", 200, "0..", "of the variance", "variation counts more"),
      integer_parameter("pool", 5, "1.., odd", "tokens", "votes spread over more neighbours"),
      choice_parameter("layers", "cascade|uniform", "how layers share the budget")};
  for (ParameterInfo& parameter : cascade_parameters()) {
    entry.info.parameters.push_back(std::move(parameter));
  }
  entry.info.terms = {{"window_attention", "probability, mean over the window, smoothed"},
                      {"variation", "gamma times the variance over the window, smoothed"}};
  entry.info.combine = "window_attention + variation";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Cake>(arguments);
    if (arguments.text("layers") == "cascade") {
      parts.allocator = make_cascade(
          {arguments.integer("window"), arguments.real("tau1"), arguments.real("tau2")});
    }
  };
  return entry;
}

}  // namespace kvscope::detail
