#include <algorithm>

#include "mergers/nearest.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

/// Each evicted token is averaged with the kept token of nearest key; the kept token becomes the
/// mean of itself and these averages, keys and values alike.
class Pivot : public Merger {
 public:
  explicit Pivot(bool multiplicity) : count_(multiplicity ? 1.0F : 0.0F) {}

  void merge(const MergeRequest& request, LayerDecision& decision) const override {
    const LayerEvidence& evidence = request.evidence;
    check_finite(evidence);
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      const NearestKept nearest = nearest_kept(evidence, decision, kv_head);
      std::vector<int> sources(static_cast<std::size_t>(decision.tokens), 0);
      for (const int target : nearest.target) {
        ++sources[static_cast<std::size_t>(target)];
      }
      for (std::size_t lost = 0; lost < nearest.lost.size(); ++lost) {
        const int target = nearest.target[lost];
        const float weight =
            0.5F / static_cast<float>(1 + sources[static_cast<std::size_t>(target)]);
        fold(decision, kv_head, nearest.lost[lost], target, weight, weight, count_);
      }
    }
    sort_edges(decision);
  }

 private:
  float count_;
};

/// Each evicted token joins the kept token of nearest key with the weight w = (cosine + 1) / 2; the
/// kept token counts 1.
class Weighted : public Merger {
 public:
  explicit Weighted(bool multiplicity) : count_(multiplicity ? 1.0F : 0.0F) {}

  void merge(const MergeRequest& request, LayerDecision& decision) const override {
    const LayerEvidence& evidence = request.evidence;
    check_finite(evidence);
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      const NearestKept nearest = nearest_kept(evidence, decision, kv_head);
      std::vector<double> total(static_cast<std::size_t>(decision.tokens), 1.0);
      std::vector<double> weight;
      for (std::size_t lost = 0; lost < nearest.lost.size(); ++lost) {
        weight.push_back(std::max((static_cast<double>(nearest.similarity[lost]) + 1) / 2, 1e-6));
        total[static_cast<std::size_t>(nearest.target[lost])] += weight.back();
      }
      for (std::size_t lost = 0; lost < nearest.lost.size(); ++lost) {
        const int target = nearest.target[lost];
        const auto share =
            static_cast<float>(weight[lost] / total[static_cast<std::size_t>(target)]);
        fold(decision, kv_head, nearest.lost[lost], target, share, share, count_);
      }
    }
    sort_edges(decision);
  }

 private:
  float count_;
};

class Drop : public Merger {
 public:
  void merge(const MergeRequest&, LayerDecision&) const override {}
};

}  // namespace

PieceEntry pivot_entry() {
  PieceEntry entry;
  entry.info.name = "pivot";
  entry.info.kind = PieceInfo::Kind::merger;
  entry.info.summary =
      "averages evicted tokens with the kept token of nearest key, keys and values alike";
  entry.info.paper = "LOOK-M, Wan et al. 2024, arXiv:2406.18139; KVCache-Factory's pivot";
  entry.info.departures = "per KV head; merged keys mix rotations of different positions, as there";
  entry.info.parameters = {
      boolean_parameter("multiplicity", false, "true: a slot counts for the tokens it absorbed")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.merger = std::make_unique<Pivot>(arguments.boolean("multiplicity"));
  };
  return entry;
}

PieceEntry weighted_entry() {
  PieceEntry entry;
  entry.info.name = "weighted";
  entry.info.kind = PieceInfo::Kind::merger;
  entry.info.summary =
      "adds evicted tokens to the kept token of nearest key, weighted by cosine, keys and values "
      "alike";
  entry.info.paper = "LOOK-M, Wan et al. 2024, arXiv:2406.18139; KVCache-Factory's weighted merge";
  entry.info.departures = "per KV head; merged keys mix rotations of different positions, as there";
  entry.info.parameters = {
      boolean_parameter("multiplicity", false, "true: a slot counts for the tokens it absorbed")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.merger = std::make_unique<Weighted>(arguments.boolean("multiplicity"));
  };
  return entry;
}

PieceEntry drop_entry() {
  PieceEntry entry;
  entry.info.name = "drop";
  entry.info.kind = PieceInfo::Kind::merger;
  entry.info.summary = "evicted tokens are dropped";
  entry.build = [](const Arguments&, Parts& parts) { parts.merger.reset(); };
  return entry;
}

}  // namespace kvscope::detail
