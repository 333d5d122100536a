#include "scorers/compactor.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include <algorithm>

#include "registry/entry.h"
#include "scorers/draws.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Leverage of the keys plus attention inside chunks, both in standard deviations, between the
/// protected ends of the sequence.
class Compactor : public Scorer {
 public:
  explicit Compactor(const Arguments& arguments)
      : first_(arguments.integer("first")),
        last_(arguments.integer("last")),
        chunk_(arguments.integer("chunk")),
        open_tail_(arguments.text("tail") == "open"),
        sketch_(arguments.integer("sketch")),
        seed_(static_cast<std::uint64_t>(arguments.integer("seed"))),
        by_removed_(arguments.text("blend") == "removed"),
        weight_(arguments.real("weight")) {}

  LayerScores score(const LayerEvidence& evidence, bool terms) const override {
    return weighed(evidence, weight_, terms);
  }

  bool reads_budget() const override { return by_removed_; }
  LayerScores score_within(const LayerEvidence& evidence, const BudgetShare& share,
                           bool terms) const override {
    return weighed(evidence, by_removed_ ? 1 - share.keep : weight_, terms);
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(0, first_, Reason::sink);
    protection.add(tokens - last_, tokens, Reason::recent);
    return protection;
  }

  int queries_needed(int prompt_tokens) const override { return prompt_tokens; }

 private:
  LayerScores weighed(const LayerEvidence& evidence, double weight, bool terms) const {
    const int layer = evidence.moment().layer;
    const int tokens = live_slots(evidence);
    const int left = std::min(first_, tokens);
    const int middle = tokens - left - std::min(last_, tokens - left);
    if (middle == 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, at::stack({none, none})};
    }
    const auto slice = [&](const at::Tensor& rows) { return rows.narrow(1, left, middle); };
    const at::Tensor plain = slice(evidence.keys(Frame::pre_rope));
    const at::Tensor values = slice(evidence.values());
    check_finite(plain, "key", layer);
    check_finite(values, "value", layer);
    const at::Tensor sketch =
        gaussian_sketch(plain.size(2), sketch_, mix(seed_) ^ static_cast<std::uint64_t>(layer));
    const at::Tensor leverage = standardised(leverage_of(plain, sketch, layer)) * weight;
    const at::Tensor mass =
        chunk_attention(slice(query_of_each_slot(evidence)), slice(evidence.keys(Frame::post_rope)),
                        chunk_, open_tail_) *
        values.norm(2, {-1}, /*keepdim=*/false);
    const at::Tensor attention = standardised(pool_tokens(mass, 3, "avg"));
    LayerScores result{widen(leverage + attention, tokens, left), {}};
    if (terms) {
      result.terms = at::stack({widen(leverage, tokens, left), widen(attention, tokens, left)});
    }
    return result;
  }

  int first_;
  int last_;
  int chunk_;
  bool open_tail_;
  int sketch_;
  std::uint64_t seed_;
  bool by_removed_;
  double weight_;
};

}  // namespace

PieceEntry compactor_entry() {
  PieceEntry entry;
  entry.info.name = "compactor";
  entry.info.summary =
      "leverage of keys plus attention inside chunks, both in standard deviations; reads no "
      "question";
  entry.info.paper = "Chari and Van Durme 2025, arXiv:2507.08143; kvpress CompactorPress";
  entry.info.departures =
      "kvpress's form: both ends are protected, where kvpress gives them the largest score; "
      "leverage "
      "weighs as much as the share of tokens that goes (blend=fixed,weight=0.5: the authors' "
      "engine, which also ranks the tokens of all heads jointly); sketch and tail as in leverage "
      "and non_causal";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("first", 8, "0..", "tokens", "more of the sequence's start stays"),
      integer_parameter("last", 4, "0..", "tokens", "more of the sequence's end stays"),
      integer_parameter("chunk", 256, "1..", "tokens", "attention reaches farther"),
      choice_parameter("tail", "open|closed", "whether places behind the last token take part"),
      integer_parameter("sketch", 48, "1..", "columns", "leverage is estimated more exactly"),
      integer_parameter("seed", 0, "0..", "", "another draw"),
      choice_parameter("blend", "removed|fixed",
                       "what leverage weighs: the share of tokens removed, or `weight`"),
      real_parameter("weight", 0.5, "0..", "", "blend=fixed: leverage weighs more")};
  entry.info.terms = {{"leverage", "standard deviations over the layer, weighed"},
                      {"chunk_attention", "standard deviations over the layer"}};
  entry.info.combine = "leverage + chunk_attention";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Compactor>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
