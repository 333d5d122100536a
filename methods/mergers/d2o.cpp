#include <algorithm>
#include <cmath>
#include <numbers>

#include "kvscope/core/error.h"
#include "mergers/nearest.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

/// Evicted tokens whose keys resemble a kept one at least as much as the mean evicted token does
/// are averaged into it, keys and values alike; the others are dropped.
class D2o : public Merger {
 public:
  explicit D2o(const Arguments& arguments)
      : by_slot_(arguments.text("gate") == "slot"), code_(arguments.text("weights") == "code") {}

  void merge(const MergeRequest& request, LayerDecision& decision) const override {
    KVSCOPE_CHECK(request.first, ErrorCode::unsupported,
                  "d2o merges at one cut: its threshold at a second one needs sums of the first",
                  "method text", "use it without a cadence: one cut after the prompt");
    check_finite(request.evidence);
    std::vector<NearestKept> heads;
    double sum = 0;
    std::size_t slots = 0;
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      heads.push_back(nearest_kept(request.evidence, decision, kv_head));
      for (const float similarity : heads.back().similarity) {
        sum += static_cast<double>(similarity);
      }
      slots += heads.back().lost.size();
    }
    const double threshold = slots > 0 ? sum / static_cast<double>(slots) : 0;
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      merge_head(heads, threshold, kv_head, decision);
    }
    sort_edges(decision);
  }

 private:
  /// What is held against the threshold for the e-th evicted token of a head.
  double level(const std::vector<NearestKept>& heads, std::size_t kv_head, std::size_t lost) const {
    if (!by_slot_) {
      return static_cast<double>(heads[kv_head].similarity[lost]);
    }
    double sum = 0;
    double count = 0;
    for (const NearestKept& head : heads) {
      if (lost < head.similarity.size()) {
        sum += static_cast<double>(head.similarity[lost]);
        count += 1;
      }
    }
    return sum / count;
  }

  /// A source beside its target's own part.
  double weight(float similarity) const {
    return code_ ? static_cast<double>(similarity) : std::exp(static_cast<double>(similarity));
  }

  void merge_head(const std::vector<NearestKept>& heads, double threshold, int kv_head,
                  LayerDecision& decision) const {
    const NearestKept& nearest = heads[static_cast<std::size_t>(kv_head)];
    const double own = code_ ? 1 : std::numbers::e;
    std::vector<double> total(static_cast<std::size_t>(decision.tokens), own);
    std::vector<bool> joins(nearest.lost.size(), false);
    for (std::size_t lost = 0; lost < nearest.lost.size(); ++lost) {
      joins[lost] = level(heads, static_cast<std::size_t>(kv_head), lost) >= threshold;
      if (joins[lost]) {
        // The code divides by the number of rows it adds up, the paper by their weights.
        total[static_cast<std::size_t>(nearest.target[lost])] +=
            code_ ? 1 : weight(nearest.similarity[lost]);
      }
    }
    std::vector<bool> grows(total.size(), false);
    for (std::size_t lost = 0; lost < nearest.lost.size(); ++lost) {
      if (!joins[lost]) {
        decline(decision, kv_head, nearest.lost[lost]);
        continue;
      }
      const auto target = static_cast<std::size_t>(nearest.target[lost]);
      const auto share = static_cast<float>(weight(nearest.similarity[lost]) / total[target]);
      fold(decision, kv_head, nearest.lost[lost], nearest.target[lost], share, share, 0);
      grows[target] = true;
    }
    for (int token = 0; token < decision.tokens; ++token) {
      const auto at = static_cast<std::size_t>(token);
      if (grows[at]) {
        const auto part = static_cast<float>(own / total[at]);
        decision.edges.push_back({kv_head, token, token, 0, part, part, 1, -1});
      }
    }
  }

  bool by_slot_;
  bool code_;
};

}  // namespace

PieceEntry d2o_entry() {
  PieceEntry entry;
  entry.info.name = "d2o";
  entry.info.kind = PieceInfo::Kind::merger;
  entry.info.summary =
      "averages evicted tokens with the kept token of nearest key if they resemble it more than "
      "the "
      "mean evicted token does, keys and values alike; others are dropped";
  entry.info.paper = "Wan et al. 2024 (D2O), arXiv:2406.13035";
  entry.info.departures =
      "the merge step alone, at one cut after the prompt, where the moving threshold is its first "
      "value, the mean; per KV head, where the authors repeat keys for each query head; layer "
      "sizes "
      "are the allocator's. gate=slot and weights=code are the authors' code: the e-th evicted "
      "token of all heads merges or not as one, whichever tokens these are";
  entry.info.parameters = {
      choice_parameter(
          "gate", "slot|token",
          "what passes: the mean over heads of the e-th evicted token's cosine, or each "
          "token's own"),
      choice_parameter(
          "weights", "code|paper",
          "code: mean of itself and each cosine times its row; paper: exp of the cosine "
          "beside e, made to add up to 1")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.merger = std::make_unique<D2o>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
