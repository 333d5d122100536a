#include <ATen/TensorOperators.h>

#include "registry/entry.h"
#include "scorers/calibrated.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

constexpr const char* array_name = "queries/filter";

/// How far a key points along the main direction of its head's queries, measured beforehand.
class QFilters : public Scorer {
 public:
  explicit QFilters(const Arguments& arguments)
      : calibration_(arguments.info().name, arguments.text("calibration")) {}

  void check(const RunPlan& plan) const override {
    calibration_.check_model(plan);
    calibration_.check_array(array_name,
                             {plan.shape.layers, plan.shape.kv_heads, plan.shape.head_dim});
  }

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const at::Tensor keys = rows(evidence.keys(Frame::post_rope), live_slots(evidence));
    const at::Tensor filter =
        calibration_.plane(array_name, evidence.moment().layer).to(keys.device());
    const at::Tensor score = keys.matmul(filter.unsqueeze(-1)).squeeze(-1).neg();
    return {score, score.unsqueeze(0)};
  }

 private:
  Calibrated calibration_;
};

}  // namespace

PieceEntry q_filters_entry() {
  PieceEntry entry;
  entry.info.name = "q_filters";
  entry.info.summary =
      "keeps keys that point along the main direction of their head's queries, which a calibration "
      "has measured";
  entry.info.paper = "Godey et al. 2025 (Q-Filters), arXiv:2503.02812; kvpress QFilterPress";
  entry.info.departures =
      "kvpress's form: nothing is protected (the authors keep a recent window); filters come from "
      "kvscope calibrate, not from the authors' store";
  entry.info.scope = "head";
  entry.info.parameters = {
      text_parameter("calibration", "", "NAME.calibration.h5 of this model, by kvscope calibrate")};
  entry.info.terms = {{"projection", "key on the filter, negated"}};
  entry.info.combine = "projection";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<QFilters>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
