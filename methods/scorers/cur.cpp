#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>

#include <limits>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Energy of a token's key and value beside its neighbours': an estimate of their leverage.
class Cur : public Scorer {
 public:
  explicit Cur(const Arguments& arguments)
      : sinks_(arguments.integer("sinks")),
        window_(arguments.integer("window")),
        local_(arguments.boolean("local")),
        of_(arguments.text("of")) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const at::Tensor energy = combined(evidence, tokens);
    const at::Tensor score = shares(energy);
    return {score, score.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(0, sinks_, Reason::sink);
    return protection;
  }

 private:
  /// Each element's share of the sum over the last axis; zero where there is nothing to share.
  static at::Tensor shares(const at::Tensor& energy) {
    const at::Tensor sum = energy.sum(-1, /*keepdim=*/true);
    return energy / sum.clamp_min(std::numeric_limits<float>::min());
  }

  at::Tensor combined(const LayerEvidence& evidence, int tokens) const {
    const at::Tensor keys = share(rows(evidence.keys(Frame::post_rope), tokens));
    const at::Tensor values = share(rows(evidence.values(), tokens));
    if (of_ == "key") {
      return keys;
    }
    if (of_ == "value") {
      return values;
    }
    return of_ == "average" ? (keys + values) / 2.0 : keys * values;
  }

  /// Squared norms [kv_heads, tokens], divided by their sum within windows; the last may be short.
  at::Tensor share(const at::Tensor& rows) const {
    const at::Tensor energy = rows.square().sum(-1);
    if (!local_) {
      return energy;
    }
    const std::int64_t tokens = energy.size(1);
    const std::int64_t missing = (window_ - tokens % window_) % window_;
    const at::Tensor windows =
        at::constant_pad_nd(energy, {0, missing}).reshape({energy.size(0), -1, window_});
    return shares(windows).reshape({energy.size(0), -1}).narrow(1, 0, tokens);
  }

  int sinks_;
  int window_;
  bool local_;
  std::string of_;
};

}  // namespace

PieceEntry cur_entry() {
  PieceEntry entry;
  entry.info.name = "cur";
  entry.info.summary = "keeps tokens whose keys and values hold most of their neighbours' energy";
  entry.info.paper = "Sengupta et al. 2025 (CurDKV), arXiv:2509.15038; kvpress CURPress";
  entry.info.departures =
      "sinks are protected, where kvpress gives them the score 1; tokens without energy share "
      "nothing, where kvpress divides by zero; without its optional random projection of keys and "
      "values";
  entry.info.scope = "head";
  entry.info.parameters = {
      integer_parameter("sinks", 4, "0..", "tokens", "more of the sequence's start stays"),
      choice_parameter("of", "product|key|value|average", "whose energy counts"),
      boolean_parameter("local", true, "shares of a window's energy instead of energies"),
      integer_parameter("window", 16, "1..", "tokens",
                        "local: a token is compared with more neighbours")};
  entry.info.terms = {{"energy_share", "of the head's, after the windows'"}};
  entry.info.combine = "energy_share";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Cur>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
