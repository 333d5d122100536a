#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <tuple>

#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Cosine of each key [kv_heads, tokens, head_dim] to its head's mean unit key: [kv_heads, tokens].
at::Tensor cosine_to_mean(const at::Tensor& keys) {
  const at::Tensor norm = keys.norm(2, {-1}, /*keepdim=*/true);
  const at::Tensor anchor = (keys / norm.clamp_min(1e-12)).mean(1, /*keepdim=*/true);
  const at::Tensor dot = keys.matmul(anchor.transpose(1, 2)).squeeze(-1);
  return dot / (norm.squeeze(-1).clamp_min(1e-8) * anchor.norm(2, {-1}).clamp_min(1e-8));
}

/// Minus the cosine of each key to the head's mean unit key; with `block`, among those that earlier
/// blocks have left.
class KeyDiff : public Scorer {
 public:
  explicit KeyDiff(int block) : block_(block) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const at::Tensor cosine =
        cosine_to_mean(rows(evidence.keys(Frame::post_rope), live_slots(evidence)));
    return {-cosine, at::stack({cosine, at::zeros_like(cosine)})};
  }

  bool reads_budget() const override { return block_ > 0; }
  LayerScores score_within(const LayerEvidence& evidence, const BudgetShare& share,
                           bool) const override {
    const at::Tensor keys = rows(evidence.keys(Frame::post_rope), live_slots(evidence));
    const std::int64_t tokens = keys.size(1);
    const std::int64_t slots = std::min<std::int64_t>(share.slots, tokens);
    at::Tensor cosine = cosine_to_mean(keys);
    at::Tensor won = at::zeros_like(cosine);
    const at::TensorOptions index = keys.options().dtype(at::kLong);
    at::Tensor kept = at::arange(slots, index).expand({keys.size(0), slots});
    double rounds = 0;
    for (std::int64_t first = slots; first < tokens; first += block_) {
      const std::int64_t count = std::min<std::int64_t>(block_, tokens - first);
      const at::Tensor fresh = at::arange(first, first + count, index);
      const at::Tensor here = at::cat({kept, fresh.expand({keys.size(0), count})}, 1);
      const at::Tensor now =
          cosine_to_mean(keys.gather(1, here.unsqueeze(-1).expand({-1, -1, keys.size(2)})));
      cosine.scatter_(1, here, now);
      const at::Tensor order = now.argsort(/*stable=*/true, 1, /*descending=*/false);
      kept = std::get<0>(here.gather(1, order.narrow(1, 0, slots)).sort(1));
      won.scatter_(1, kept, points * ++rounds);
    }
    return {won - cosine, at::stack({cosine, won})};
  }

 private:
  static constexpr double points = 3;  ///< more than cosines can differ by
  int block_;
};

}  // namespace

PieceEntry keydiff_entry() {
  PieceEntry entry;
  entry.info.name = "keydiff";
  entry.info.summary =
      "keeps distinctive keys: those that point away from the head's mean direction";
  entry.info.paper = "Park et al. 2025, arXiv:2504.15364; block: kvpress BlockPress";
  entry.info.departures =
      "one cut after prefill, as kvpress; block= holds each block of keys against those that are "
      "left, on keys of one full pass, as kvpress's BlockPress; in the paper's loop later blocks "
      "attend to what is left: keydiff | rows:block=128";
  entry.info.scope = "head";
  entry.info.parameters = {integer_parameter(
      "block", 0, "0..", "tokens",
      "0: all keys at once; else fewer rounds, in each of which a block meets the keys left")};
  entry.info.terms = {{"cosine", "to the mean unit key, in the last round the token took part in"},
                      {"last_round_won", "three a block"}};
  entry.info.combine = "-cosine + last_round_won";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<KeyDiff>(arguments.integer("block"));
  };
  return entry;
}

}  // namespace kvscope::detail
