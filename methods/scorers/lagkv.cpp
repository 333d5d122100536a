#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// How uneven a token's channels are in the scale of the partition that follows its own.
class LagKv : public Scorer {
 public:
  explicit LagKv(const Arguments& arguments)
      : sinks_(arguments.integer("sinks")),
        lag_(arguments.integer("lag")),
        ranks_(arguments.text("across") == "ranks"),
        protect_(arguments.text("ends") == "protected") {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const at::Tensor keys = rows(evidence.keys(Frame::post_rope), tokens);
    const at::Tensor values = rows(evidence.values(), tokens);
    check_finite(keys, "key", evidence.moment().layer);
    check_finite(values, "value", evidence.moment().layer);
    const at::Tensor score = tokens < sinks_ + 2 * lag_
                                 ? by_position(keys)
                                 : against_next(keys, values, (tokens - sinks_) / lag_);
    return {score, score.unsqueeze(0)};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    if (protect_) {
      protection.add(0, sinks_, Reason::sink);
      if (tokens >= sinks_ + 2 * lag_) {
        protection.add(sinks_ + ((tokens - sinks_) / lag_ - 1) * lag_, tokens, Reason::recent);
      }
    }
    return protection;
  }

 private:
  /// Fewer than two partitions: the newest stay.
  at::Tensor by_position(const at::Tensor& keys) const {
    const std::int64_t tokens = keys.size(1);
    const std::int64_t sinks = std::min<std::int64_t>(sinks_, tokens);
    const at::TensorOptions options = keys.options();
    return at::cat({at::ones({sinks}, options),
                    at::arange(tokens - sinks, options) / static_cast<double>(tokens - sinks_)})
        .unsqueeze(0)
        .expand({keys.size(0), tokens})
        .contiguous();
  }

  /// [kv_heads, partitions - 1, lag]: softmax over a partition of the standard deviation over
  /// channels, each channel in the range it has in the next partition.
  at::Tensor partitioned(const at::Tensor& rows, int partitions) const {
    const at::Tensor cells = rows.narrow(1, sinks_, std::int64_t{partitions} * lag_)
                                 .reshape({rows.size(0), partitions, lag_, rows.size(2)});
    const at::Tensor next = cells.narrow(1, 1, partitions - 1);
    const at::Tensor least = next.amin(2, /*keepdim=*/true);
    const at::Tensor range = next.amax(2, /*keepdim=*/true) - least;
    const at::Tensor scaled = (cells.narrow(1, 0, partitions - 1) - least) /
                              at::where(range > 0, range, at::ones({}, range.options()));
    const std::int64_t channels = rows.size(2);
    const at::Tensor mean = scaled.mean(-1, /*keepdim=*/true);
    const at::Tensor deviation =
        ((scaled - mean).square().sum(-1) / static_cast<double>(channels - 1)).sqrt();
    return at::softmax(deviation, -1);
  }

  at::Tensor against_next(const at::Tensor& keys, const at::Tensor& values, int partitions) const {
    at::Tensor score = (partitioned(keys, partitions) + partitioned(values, partitions)) / 2.0;
    if (ranks_) {
      const at::Tensor rank = score.argsort(true, -1, false).argsort(true, -1, false);
      score = rank.to(at::kFloat) / static_cast<double>(lag_);
    }
    const std::int64_t scored = std::int64_t{partitions - 1} * lag_;
    const at::TensorOptions options = keys.options();
    return at::cat({at::ones({keys.size(0), sinks_}, options),
                    score.reshape({keys.size(0), scored}),
                    at::ones({keys.size(0), keys.size(1) - sinks_ - scored}, options)},
                   1);
  }

  int sinks_;
  int lag_;
  bool ranks_;
  bool protect_;
};

}  // namespace

PieceEntry lagkv_entry() {
  PieceEntry entry;
  entry.info.name = "lagkv";
  entry.info.summary =
      "keeps tokens whose keys and values spread most in the scale of the partition after theirs; "
      "reads no queries";
  entry.info.paper = "Liang et al. 2025, arXiv:2504.04704";
  entry.info.departures =
      "kvpress's form, one cut after prefill; the authors compress partition by partition as the "
      "sequence grows. Sinks, the last full partition and what follows it are protected, where "
      "kvpress gives them the score 1 (ends=scored). A channel that is constant in the next "
      "partition keeps its scale, where the reference divides by 0";
  entry.info.scope = "head";
  entry.info.parameters = {
      integer_parameter("sinks", 4, "0..", "tokens", "more of the sequence's start stays"),
      integer_parameter("lag", 128, "1..", "tokens",
                        "partitions are larger, and so is the protected end"),
      choice_parameter("across", "ranks|scores",
                       "partitions compete by rank within their own, or by score (kvpress's "
                       "cross_scoring)"),
      choice_parameter("ends", "protected|scored",
                       "sinks and the end always stay, or compete with the score 1")};
  entry.info.terms = {{"spread", "rank within the partition, 0 to 1, or probability"}};
  entry.info.combine = "spread";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<LagKv>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
