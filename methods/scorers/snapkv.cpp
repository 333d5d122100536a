#include "scorers/snapkv.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Attention of the newest `window` queries to each older token, averaged over the window and the
/// GQA group, then smoothed along tokens.
class SnapKv : public Scorer {
 public:
  explicit SnapKv(const Arguments& arguments)
      : window_(arguments.integer("window")),
        pool_(arguments.integer("pool")),
        pooling_(arguments.text("pooling")),
        reduce_(arguments.text("reduce")) {}

  LayerScores score(const LayerEvidence& evidence, bool terms) const override {
    const int tokens = live_slots(evidence);
    const int candidates = tokens - window_;
    if (candidates <= 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, none.unsqueeze(0).expand({2, none.size(0), tokens})};
    }
    const at::Tensor mean = columns(evidence.window_sum(window_), candidates) / window_;
    const at::Tensor group = reduce_group(mean, evidence.shape().kv_heads, reduce_);
    const at::Tensor smooth = pool_tokens(group, pool_, pooling_);
    LayerScores result{widen(smooth, tokens), {}};
    if (terms) {
      result.terms = at::stack({widen(group, tokens), widen(smooth - group, tokens)});
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
  int window_;
  int pool_;
  std::string pooling_;
  std::string reduce_;
};

}  // namespace

std::vector<ParameterInfo> snapkv_parameters() {
  return {integer_parameter("window", 64, "1..", "queries",
                            "more of the newest queries vote, and more of the newest tokens stay"),
          integer_parameter("pool", 5, "1.., odd", "tokens", "votes spread over more neighbours"),
          choice_parameter("pooling", "avg|max", "how votes spread"), reduce_parameter()};
}

std::unique_ptr<Scorer> make_snapkv(const Arguments& arguments) {
  return std::make_unique<SnapKv>(arguments);
}

void describe_snapkv_score(PieceInfo& info) {
  info.scope = "layer";
  info.terms = {{"window_attention", "probability, mean over the window"},
                {"from_neighbours", "what smoothing along tokens adds"}};
  info.combine = "window_attention + from_neighbours";
}

PieceEntry snapkv_entry() {
  PieceEntry entry;
  entry.info.name = "snapkv";
  entry.info.summary = "keeps what the newest queries attend to, and those queries' tokens";
  entry.info.paper = "Li et al. 2024, arXiv:2404.14469";
  entry.info.departures =
      "a group of query heads chooses as one and the window lies inside the budget, as in kvpress; "
      "the authors choose per query head";
  describe_snapkv_score(entry.info);
  entry.info.parameters = snapkv_parameters();
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = make_snapkv(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
