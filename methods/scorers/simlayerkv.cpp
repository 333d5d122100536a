#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "kvscope/core/error.h"
#include "registry/entry.h"
#include "scorers/reduce.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

/// How far a layer is from lazy: one number for all tokens between its sinks and its newest.
class SimLayerKv : public Scorer {
 public:
  explicit SimLayerKv(const Arguments& arguments)
      : threshold_(arguments.real("threshold")),
        sinks_(arguments.integer("sinks")),
        recent_(arguments.integer("recent")),
        queries_(arguments.integer("queries")) {
    KVSCOPE_CHECK(recent_ > queries_, ErrorCode::usage,
                  "simlayerkv keeps recent - queries newest tokens, which leaves none",
                  "method text", "use recent= larger than queries=");
  }

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const double left = threshold_ < 1 && tokens > sinks_ + recent_ + queries_
                            ? threshold_ - laziness(evidence, tokens)
                            : 1;
    const at::Tensor score = at::full({evidence.shape().kv_heads, tokens}, left, at::kFloat);
    return {score, score.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(0, sinks_, Reason::sink);
    protection.add(tokens - (recent_ - queries_), tokens, Reason::recent);
    return protection;
  }

 private:
  /// Attention of the newest queries that falls on sinks and on the tokens just before them.
  double laziness(const LayerEvidence& evidence, int tokens) const {
    const int candidates = tokens - queries_;
    const at::Tensor mean = columns(evidence.window_sum(queries_), candidates).mean(0) / queries_;
    return (mean.narrow(0, 0, sinks_).sum() + mean.narrow(0, candidates - recent_, recent_).sum())
        .item<double>();
  }

  double threshold_;
  int sinks_;
  int recent_;
  int queries_;
};

}  // namespace

PieceEntry simlayerkv_entry() {
  PieceEntry entry;
  entry.info.name = "simlayerkv";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary =
      "lazy layers, whose newest queries attend to sinks and recent tokens alone, keep just those; "
      "other layers keep everything, whatever the budget";
  entry.info.paper = "Zhang et al. 2024, arXiv:2410.13846; kvpress SimLayerKVPress";
  entry.info.departures =
      "kvpress's form: lazy layers keep recent - queries newest tokens, and threshold 1 is off; "
      "the "
      "authors suggest 0.9 for Llama 3, 0.8 for Mistral, 0.85 for Qwen, and measure at the first "
      "generated token; recent = queries, where kvpress keeps sinks twice, is refused";
  entry.info.scope = "model";
  entry.info.expands_to = "simlayerkv scores | threshold:at=0";
  entry.info.parameters = {
      real_parameter("threshold", 1, "0..1", "probability", "fewer layers count as lazy; 1: none"),
      integer_parameter("sinks", 4, "0..", "tokens", "more of the sequence's start stays"),
      integer_parameter("recent", 1024, "1..", "tokens", "more of the newest tokens stay"),
      integer_parameter("queries", 1, "1..", "queries", "more of the newest queries are measured")};
  entry.info.terms = {{"distance_from_lazy", "probability, of the layer"}};
  entry.info.combine = "distance_from_lazy";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<SimLayerKv>(arguments);
    parts.selector = make_threshold(0);
  };
  return entry;
}

}  // namespace kvscope::detail
