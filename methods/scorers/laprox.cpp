#include "scorers/laprox.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include "allocators/allocators.h"
#include "kvscope/core/error.h"
#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Norm of a token's attention column over the newest `window` queries times the norm of its value
/// after the output projection; the group's query heads are combined by `reduce`, then smoothed.
class Laprox : public Scorer {
 public:
  explicit Laprox(const Arguments& arguments)
      : window_(arguments.integer("window")),
        pool_(arguments.integer("pool")),
        pool_columns_(arguments.text("pool_on") == "columns"),
        reduce_(arguments.text("reduce")),
        value_(arguments.boolean("value")),
        projection_(arguments.boolean("projection")) {
    const bool norms = reduce_ == "g1" || reduce_ == "g2";
    KVSCOPE_CHECK(norms || (value_ && projection_), ErrorCode::usage,
                  "laprox's reduce=" + reduce_ + " needs the projected values", "method text",
                  "use reduce=g1 or reduce=g2 with value=false or projection=false");
    KVSCOPE_CHECK(norms || !pool_columns_, ErrorCode::usage,
                  "laprox's pool_on=columns has no meaning with reduce=" + reduce_, "method text",
                  "use pool_on=score");
  }

  LayerScores score(const LayerEvidence& evidence, bool terms) const override {
    const int tokens = live_slots(evidence);
    const int candidates = tokens - window_;
    if (candidates <= 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, none.unsqueeze(0).expand({3, none.size(0), tokens})};
    }
    const Factors raw = factors(evidence, candidates);
    const at::Tensor score = raw.exact.defined() ? raw.exact : raw.column * raw.value;
    const at::Tensor smooth = pool_columns_ ? score : pool_tokens(score, pool_, "avg");
    LayerScores result{widen(smooth, tokens), {}};
    if (terms) {
      // The value term is what the column norm has to be multiplied by: where the group's heads
      // differ, a mean of their norms weighted by their columns.
      const at::Tensor value = at::where(raw.column > 0, score / raw.column, 0.0);
      result.terms = at::stack(
          {widen(raw.column, tokens), widen(value, tokens), widen(smooth - score, tokens)});
    }
    return result;
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(tokens - window_, tokens, Reason::observation_window);
    return protection;
  }

 private:
  /// [query_heads, candidates]
  at::Tensor column_norm(const LayerEvidence& evidence, int candidates) const {
    const at::Tensor norm = columns(evidence.window_sum_squares(window_), candidates).sqrt();
    return pool_columns_ ? pool_tokens(norm, pool_, "avg") : norm;
  }

  /// [query_heads, candidates]; ones without the value factor.
  at::Tensor value_norm(const LayerEvidence& evidence, int candidates) const {
    if (value_ && projection_) {
      return columns(evidence.projected_value_norm(2), candidates);
    }
    const ModelShape& shape = evidence.shape();
    if (!value_) {
      return at::ones_like(columns(evidence.window_sum_squares(window_), candidates));
    }
    return rows(evidence.values(), candidates)
        .norm(2, {-1}, /*keepdim=*/false)
        .repeat_interleave(shape.group_size(), 0);
  }

  /// [kv_heads, candidates] each.
  struct Factors {
    at::Tensor column;
    at::Tensor value;  ///< undefined where `exact` is given
    at::Tensor exact;  ///< the score, where it is no product of the other two
  };

  Factors factors(const LayerEvidence& evidence, int candidates) const {
    const int kv_heads = evidence.shape().kv_heads;
    const auto group_mean = [&](const at::Tensor& per_query_head) {
      return reduce_group(per_query_head, kv_heads, "mean");
    };
    if (reduce_ == "g1") {
      const at::Tensor column = column_norm(evidence, candidates);
      return {group_mean(column), {}, group_mean(column * value_norm(evidence, candidates))};
    }
    const at::Tensor attention = columns(evidence.attention(window_), candidates);
    if (reduce_ == "gx") {
      return {group_mean(column_norm(evidence, candidates)),
              {},
              exact_contribution(attention, rows(evidence.values(), candidates),
                                 evidence.output_weights())};
    }
    at::Tensor norm = mean_column_norm(attention, kv_heads);
    if (pool_columns_) {
      norm = pool_tokens(norm, pool_, "avg");
    }
    return {norm,
            reduce_ == "g2" ? group_mean(value_norm(evidence, candidates))
                            : summed_projection_norm(rows(evidence.values(), candidates),
                                                     evidence.output_weights()),
            {}};
  }

  int window_;
  int pool_;
  bool pool_columns_;
  std::string reduce_;
  bool value_;
  bool projection_;
};

std::vector<ParameterInfo> laprox_parameters() {
  return {
      integer_parameter("window", 32, "1..", "queries",
                        "more of the newest queries vote, and more of the newest tokens stay"),
      integer_parameter("pool", 7, "1.., odd", "tokens", "scores spread over more neighbours"),
      choice_parameter("pool_on", "score|columns",
                       "what is smoothed: the finished score, or the attention columns' norms"),
      choice_parameter("scope", "model|layer|head", "what competes for one pool of slots"),
      boolean_parameter(
          "normalise", true,
          "scope=model: a layer's scores are divided by their sum before the ranking"),
      choice_parameter("reduce", "g1|g2|g2b|gx",
                       "query heads of a group: mean of products, product of means, averaged "
                       "attention through summed projections, or the exact contribution"),
      boolean_parameter("value", true, "false leaves the attention columns alone (ablation)"),
      boolean_parameter("projection", true,
                        "false takes the values' norms before the output projection (ablation)")};
}

}  // namespace

PieceEntry laprox_entry() {
  PieceEntry entry;
  entry.info.name = "laprox";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary =
      "attention column norm x projected value norm, ranked once over all layers and heads";
  entry.info.paper = "Mai and Kim 2026, arXiv:2605.07234";
  entry.info.departures =
      "the paper leaves open how a group's heads combine and where scores are smoothed: ours is "
      "the "
      "mean of products, smoothed last; the window lies inside the budget";
  entry.info.scope = "layer";
  entry.info.expands_to = "laprox scores | pool:scope=model";
  entry.info.parameters = laprox_parameters();
  entry.info.terms = {{"column_norm", "L2 over the window"},
                      {"projected_value_norm", "L2"},
                      {"from_neighbours", "what smoothing along tokens adds"}};
  entry.info.combine = "column_norm * projected_value_norm + from_neighbours";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Laprox>(arguments);
    const std::string& scope = arguments.text("scope");
    if (scope == "head") {
      parts.allocator = make_uniform();
    } else {
      parts.allocator =
          make_pool(scope == "model" ? Allocator::Scope::model : Allocator::Scope::layer,
                    arguments.boolean("normalise"));
    }
  };
  return entry;
}

}  // namespace kvscope::detail
