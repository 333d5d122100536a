#include "scorers/triattention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "cadences/decode.h"
#include "kvscope/core/error.h"
#include "scorers/calibrated.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// How well the queries that are still to come will see each key: the logit of the head's mean
/// query at growing distances, and what its spread adds to it.
class TriAttention : public Scorer {
 public:
  TriAttention(const Arguments& arguments, double recent_share)
      : method_(arguments.info().name),
        calibration_(method_, arguments.text("calibration")),
        keep_prompt_(arguments.text("prompt") == "protected"),
        recent_(arguments.integer("recent")),
        recent_share_(recent_share),
        trigonometric_(arguments.boolean("trig")),
        resultant_(arguments.boolean("resultant")),
        offsets_{arguments.integer("offsets"), arguments.text("over_offsets") == "max"} {
    const std::string& mode = arguments.text("mode");
    settling_.mode = mode == "per_head"            ? TriSettling::Mode::per_head
                     : mode == "per_layer_perhead" ? TriSettling::Mode::per_layer_perhead
                                                   : TriSettling::Mode::union_;
    settling_.group_mean = arguments.text("group") == "mean";
    settling_.normalise = arguments.boolean("normalise");
    settling_.sample = arguments.text("deviation") == "sample";
  }

  void check(const RunPlan& plan) const override {
    const ModelShape& shape = plan.shape;
    calibration_.check_model(plan);
    for (int layer = 0; layer < shape.layers; ++layer) {
      const RopeParameters& rope = shape.rope_of(layer);
      KVSCOPE_CHECK(
          rope.dims == shape.head_dim && rope.growth == RopeGrowth::fixed, ErrorCode::unsupported,
          fmt::format("layer {} rotates {} of {} channels{}; the series is defined where "
                      "all rotate, by fixed frequencies",
                      layer, rope.dims, shape.head_dim,
                      rope.growth == RopeGrowth::fixed ? "" : ", more slowly as it reads on"),
          method_, "use another method with this model");
    }
    const std::vector<std::int64_t> expected = {shape.layers, shape.query_heads,
                                                shape.head_dim / 2};
    for (const char* name : {"queries/mean_real", "queries/mean_imaginary", "queries/mean_abs"}) {
      calibration_.check_array(name, expected);
    }
  }

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    TriTerms terms = triattention_terms(rows(evidence.keys(Frame::post_rope), tokens),
                                        centres(evidence.moment().layer),
                                        evidence.shape().rope_of(evidence.moment().layer), offsets_,
                                        next_position(evidence), resultant_);
    if (!trigonometric_) {
      terms.trigonometric.zero_();
    }
    return {at::stack({terms.trigonometric, terms.norm}), {}};
  }

  bool settles() const override { return true; }
  bool shares_choice() const override {
    return settling_.mode != TriSettling::Mode::per_layer_perhead;
  }

  std::vector<LayerScores> settle(const std::vector<LayerScores>& raw,
                                  const SettleRequest& request) const override {
    std::vector<TriTerms> terms;
    for (const LayerScores& layer : raw) {
      terms.push_back({layer.scores[0], layer.scores[1]});
    }
    return settle_triattention(terms, settling_, request);
  }

  Protection protect_in_run(const ProtectionRequest& request) const override {
    Protection protection(request.tokens);
    if (keep_prompt_) {
      protection.add(0, request.prompt_tokens, Reason::rule);
    }
    const int most = static_cast<int>(std::floor(recent_share_ * request.slots_per_head));
    const int recent =
        std::clamp(std::min(recent_, most), 0, std::max(0, request.slots_per_head - 1));
    protection.add(request.tokens - recent, request.tokens, Reason::recent);
    return protection;
  }

 private:
  /// The position the next token will have.
  static std::int64_t next_position(const LayerEvidence& evidence) {
    const SlotTable& slots = evidence.slots();
    return slots.position[slots.cell(0, slots.length.front() - 1)] + std::int64_t{1};
  }

  QueryCentres centres(int layer) const {
    return {calibration_.plane("queries/mean_real", layer),
            calibration_.plane("queries/mean_imaginary", layer),
            calibration_.plane("queries/mean_abs", layer)};
  }

  std::string method_;
  Calibrated calibration_;
  bool keep_prompt_;
  int recent_;
  double recent_share_;
  bool trigonometric_;
  bool resultant_;
  FutureOffsets offsets_;
  TriSettling settling_;
};

constexpr const char* paper = "Mao et al. 2026, arXiv:2604.04921";

PieceEntry preset(const char* name, const TriDefaults& defaults) {
  PieceEntry entry;
  entry.info.name = name;
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.paper = paper;
  entry.info.parameters = triattention_parameters(defaults);
  for (ParameterInfo& parameter : decode_parameters()) {
    entry.info.parameters.push_back(std::move(parameter));
  }
  describe_triattention_score(entry.info);
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = make_triattention(arguments, 1.0);
    parts.cadence = make_decode(arguments);
  };
  return entry;
}

}  // namespace

std::vector<ParameterInfo> triattention_parameters(const TriDefaults& defaults) {
  return {
      text_parameter("calibration", "", "NAME.calibration.h5 of this model, by kvscope calibrate"),
      choice_parameter("mode", defaults.modes,
                       "one choice for each KV head's index, shared by all layers; one for each "
                       "layer and KV head; or one for the model"),
      choice_parameter("prompt", defaults.prompts, "whether prompt tokens always stay"),
      integer_parameter("recent", defaults.recent, "0..", "tokens",
                        "more of the newest tokens stay"),
      choice_parameter("group", "max|mean", "how the query heads of a group make one score"),
      choice_parameter("over_offsets", "mean|max", "how the future distances make one score"),
      integer_parameter("offsets", 17, "1..40", "distances",
                        "1, 2, 4, ...: farther into the future"),
      choice_parameter("deviation", defaults.deviations,
                       "of the z-scores: the reference path's, or the serving path's"),
      boolean_parameter("normalise", true, "scores of each query head as z-scores"),
      boolean_parameter("trig", true, "false: the norm term alone (the authors' disable_trig)"),
      boolean_parameter("resultant", true,
                        "the norm term weighs 1 - R; false: all of E|q| (disable_mlr)")};
}

std::unique_ptr<Scorer> make_triattention(const Arguments& arguments, double recent_share) {
  return std::make_unique<TriAttention>(arguments, recent_share);
}

void describe_triattention_score(PieceInfo& info) {
  info.scope = "head";
  info.terms = {{"trig", "standard deviations of the query head's scores"},
                {"norm", "standard deviations of the query head's scores"},
                {"centre", "standard deviations; minus the head's mean score"}};
  info.combine = "trig + norm + centre";
}

PieceEntry triattention_entry() {
  PieceEntry entry = preset("triattention", TriDefaults{});
  entry.info.summary =
      "predicts from calibrated query centres how future queries will see each key; the reference "
      "path: the whole prompt stays, cuts come while decoding";
  entry.info.departures =
      "no noise against ties; a prompt as large as the budget is refused, where the authors' code "
      "keeps its first tokens and drops the rest, the newest included";
  return entry;
}

PieceEntry triattention_serving_entry() {
  TriDefaults defaults;
  defaults.prompts = "evictable|protected";
  defaults.deviations = "sample|population";
  defaults.recent = 128;
  PieceEntry entry = preset("triattention_serving", defaults);
  entry.info.summary =
      "triattention by its serving path: prompt tokens may go, the newest 128 stay, sample "
      "standard "
      "deviation";
  entry.info.departures =
      "cuts come from the first new token on; the authors' plug-in also cuts between the chunks of "
      "a "
      "long prompt";
  return entry;
}

}  // namespace kvscope::detail
