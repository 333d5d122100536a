#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// What the question, the newest `window` tokens, attends to.
class Finch : public Scorer {
 public:
  explicit Finch(const Arguments& arguments)
      : window_(arguments.integer("window")), normalise_(arguments.boolean("normalise")) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const int candidates = tokens - window_;
    if (candidates <= 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, none.unsqueeze(0)};
    }
    const at::Tensor score = widen(
        reduce_group(mean_row(evidence, candidates), evidence.shape().kv_heads, "mean"), tokens);
    return {score, score.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(tokens - window_, tokens, Reason::observation_window);
    return protection;
  }

  int queries_needed(int) const override { return window_; }

 private:
  /// [query_heads, candidates]; with `normalise` each row times the keys before its own.
  at::Tensor mean_row(const LayerEvidence& evidence, int candidates) const {
    if (!normalise_) {
      return columns(evidence.window_sum(window_), candidates) / window_;
    }
    const at::Tensor rows = columns(evidence.attention(window_), candidates);
    const at::Tensor keys_before =
        at::arange(candidates, candidates + window_, rows.options()).unsqueeze(1);
    return (rows * keys_before).mean(1);
  }

  int window_;
  bool normalise_;
};

}  // namespace

PieceEntry finch_entry() {
  PieceEntry entry;
  entry.info.name = "finch";
  entry.info.summary =
      "keeps what the question, at the prompt's end, attends to, and rotates the kept keys by "
      "their "
      "place in the cache";
  entry.info.paper = "Corallo and Papotti 2024, arXiv:2408.00167; kvpress FinchPress";
  entry.info.departures =
      "kvpress's form: one cut after the prompt (its chunks: finch | spans); the question is the "
      "newest `window` tokens, where kvpress looks for a delimiter token; a query counts the keys "
      "before it, the paper one more";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("window", 32, "1..", "queries",
                        "the question's tokens: what votes, and stays"),
      boolean_parameter("normalise", true,
                        "each query's attention times the number of keys before it"),
      boolean_parameter("rerotate", true,
                        "kept keys are rotated by their place in the cache, and new ones follow; "
                        "false: original positions")};
  entry.info.terms = {{"question_attention", "probability, times keys if normalised"}};
  entry.info.combine = "question_attention";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Finch>(arguments);
    if (arguments.boolean("rerotate")) {
      parts.form.keys = Frame::pre_rope;
      parts.form.positions = CacheForm::Positions::cache_index;
    }
  };
  return entry;
}

}  // namespace kvscope::detail
