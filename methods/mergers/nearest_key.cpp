#include <algorithm>
#include <cmath>
#include <limits>

#include "mergers/nearest.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

/// Linear quantile of `values`; -inf entries stay -inf instead of becoming NaN between neighbours.
float quantile(std::vector<float> values, double at) {
  std::sort(values.begin(), values.end());
  const double place = at * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  const double part = place - static_cast<double>(low);
  if (std::isinf(values[low]) || part == 0) {
    return values[low];
  }
  return static_cast<float>(values[low] + part * (values[high] - values[low]));
}

/// Folds the values of evicted tokens into the kept token of nearest key; keys stay as they are.
class NearestKey : public Merger {
 public:
  NearestKey(double gate, double fraction, bool multiplicity)
      : gate_(static_cast<float>(gate)), fraction_(fraction), multiplicity_(multiplicity) {}

  void merge(const MergeRequest& request, LayerDecision& decision) const override {
    const LayerEvidence& evidence = request.evidence;
    check_finite(evidence);
    const at::Tensor norms = evidence.values().norm(2, {-1}).cpu().contiguous();
    const std::int64_t slots = norms.size(1);
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      merge_head(nearest_kept(evidence, decision, kv_head),
                 norms.data_ptr<float>() + kv_head * slots, kv_head, decision);
    }
    sort_edges(decision);
  }

 private:
  void merge_head(const NearestKept& nearest, const float* value_norm, int kv_head,
                  LayerDecision& decision) const {
    const float threshold = similarity_threshold(nearest.similarity);
    std::vector<float> weight(nearest.lost.size(), 0.0F);
    std::vector<double> received(static_cast<std::size_t>(decision.tokens), 0.0);
    for (std::size_t lost = 0; lost < nearest.lost.size(); ++lost) {
      const float similarity = nearest.similarity[lost];
      if (similarity < gate_ || similarity < threshold || similarity <= 0) {
        continue;
      }
      const float own = value_norm[nearest.lost[lost]];
      const float other = value_norm[nearest.target[lost]];
      weight[lost] = similarity * own / (own + other + 1e-6F);
      received[static_cast<std::size_t>(nearest.target[lost])] += weight[lost];
    }
    for (std::size_t lost = 0; lost < nearest.lost.size(); ++lost) {
      if (weight[lost] > 0) {
        const int target = nearest.target[lost];
        const double share = weight[lost] / (1.0 + received[static_cast<std::size_t>(target)]);
        fold(decision, kv_head, nearest.lost[lost], target, 0.0F, static_cast<float>(share),
             multiplicity_ ? 1.0F : 0.0F);
      } else {
        decline(decision, kv_head, nearest.lost[lost]);
      }
    }
  }

  /// Similarity that the best `fraction` of those past the gate reach.
  float similarity_threshold(std::vector<float> similarity) const {
    if (fraction_ >= 1 || similarity.empty()) {
      return -std::numeric_limits<float>::infinity();
    }
    for (float& value : similarity) {
      value = value >= gate_ ? value : -std::numeric_limits<float>::infinity();
    }
    return quantile(std::move(similarity), 1 - fraction_);
  }

  float gate_;
  double fraction_;
  bool multiplicity_;
};

}  // namespace

PieceEntry nearest_key_entry() {
  PieceEntry entry;
  entry.info.name = "nearest_key";
  entry.info.kind = PieceInfo::Kind::merger;
  entry.info.summary = "folds evicted values into the kept token whose key is nearest; keys stay";
  entry.info.paper = "kvpress MergingPress";
  entry.info.departures =
      "fraction < 1: where the reference's quantile is NaN and nothing merges, ours merges what "
      "passes the gate";
  entry.info.parameters = {
      real_parameter("gate", 0.0, "-1..1", "cosine",
                     "fewer tokens are folded in, more are evicted"),
      real_parameter("fraction", 1.0, "0..1", "of the evicted", "more tokens are folded in"),
      boolean_parameter("multiplicity", false, "true: a slot counts for the tokens it absorbed")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.merger = std::make_unique<NearestKey>(arguments.real("gate"), arguments.real("fraction"),
                                                arguments.boolean("multiplicity"));
  };
  return entry;
}

}  // namespace kvscope::detail
