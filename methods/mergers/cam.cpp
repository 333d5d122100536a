#include <ATen/ops/mean.h>

#include <algorithm>
#include <cmath>

#include "mergers/nearest.h"
#include "registry/entry.h"
#include "scorers/draws.h"

namespace kvscope::detail {
namespace {

/// Adds the value of an evicted token, in equal parts, to the kept tokens that follow it, with a
/// probability that grows with the attention it received beside theirs. Keys stay.
class Cam : public Merger {
 public:
  explicit Cam(const Arguments& arguments)
      : window_(arguments.integer("window")),
        candidates_(arguments.integer("candidates")),
        received_(arguments.text("received")),
        by_score_(arguments.text("rank") == "score"),
        beside_recent_(arguments.text("beside") == "recent"),
        fixed_part_(arguments.text("part") == "window"),
        chance_(arguments.text("chance")),
        seed_(static_cast<std::uint64_t>(arguments.integer("seed"))) {}

  void merge(const MergeRequest& request, LayerDecision& decision) const override {
    check_finite(request.evidence);
    const at::Tensor sums = received(request.evidence);
    const std::vector<float> scores = by_score_ ? mean_scores(request) : std::vector<float>();
    const std::uint64_t base = mix(mix(seed_ ^ mix(request.evidence.random_seed())) ^
                                   static_cast<std::uint64_t>(decision.layer));
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      const float* head = sums.const_data_ptr<float>() + kv_head * sums.size(1);
      const HeadCut cut{head, by_score_ ? scores.data() : head,
                        candidates_ > 0 ? candidates_ : request.steps, base};
      merge_head(cut, kv_head, decision);
    }
    sort_edges(decision);
  }

 private:
  /// What one KV head's merging looks at, by token.
  struct HeadCut {
    const float* received;
    const float* rank;  ///< by which evicted tokens become candidates
    int most;           ///< candidates
    std::uint64_t key;  ///< of the draws
  };

  /// Attention received, mean over a group's query heads: [kv_heads, slots].
  at::Tensor received(const LayerEvidence& evidence) const {
    const at::Tensor sums = (received_ == "decode" ? evidence.decode_attention_sum()
                             : received_ == "all"  ? evidence.attention_sum()
                                                   : evidence.last_query())
                                .cpu();
    const std::int64_t kv_heads = evidence.shape().kv_heads;
    return sums.view({kv_heads, sums.size(0) / kv_heads, sums.size(1)}).mean(1).contiguous();
  }

  /// Scores of the cut, mean over KV heads: [tokens].
  static std::vector<float> mean_scores(const MergeRequest& request) {
    const auto heads = static_cast<std::size_t>(request.evidence.shape().kv_heads);
    const std::size_t tokens = request.scores.size() / heads;
    std::vector<float> mean(tokens);
    for (std::size_t token = 0; token < tokens; ++token) {
      double sum = 0;
      for (std::size_t head = 0; head < heads; ++head) {
        sum += static_cast<double>(request.scores[head * tokens + token]);
      }
      mean[token] = static_cast<float>(sum / static_cast<double>(heads));
    }
    return mean;
  }

  /// The `most` best evicted tokens are those that may merge; of equal ones the later.
  static void keep_candidates(const HeadCut& cut, int kv_head, std::vector<int>& lost,
                              LayerDecision& decision) {
    std::stable_sort(lost.begin(), lost.end(), [&](int a, int b) {
      return cut.rank[a] != cut.rank[b] ? cut.rank[a] > cut.rank[b] : a > b;
    });
    const std::size_t count = std::min(lost.size(), static_cast<std::size_t>(cut.most));
    for (std::size_t at = count; at < lost.size(); ++at) {
      decline(decision, kv_head, lost[at]);
    }
    lost.resize(count);
  }

  /// Whether the token merges, by the attention it received beside the mean of others.
  bool taken(const HeadCut& cut, int token, double beside) const {
    const double own = static_cast<double>(cut.received[token]);
    if (chance_ == "above") {
      return own > beside;
    }
    // 0 / 0 is 0, and x / 0 certain, as in the reference.
    const double chance = own > 0 ? (beside > 0 ? std::min(own / beside, 1.0) : 1.0) : 0.0;
    const std::uint64_t place = bits_of(cut.received[token]) << 32 | static_cast<unsigned>(token);
    return (chance_ == "drawn" ? static_cast<double>(uniform_draw(cut.key ^ mix(place))) : 0.5) <
           chance;
  }

  void merge_head(const HeadCut& cut, int kv_head, LayerDecision& decision) const {
    std::vector<int> kept;
    std::vector<int> lost;
    for (int token = 0; token < decision.tokens; ++token) {
      const std::size_t cell = decision.cell(kv_head, token);
      if (decision.fate[cell] == Fate::kept) {
        kept.push_back(token);
      } else if (decision.fate[cell] == Fate::evicted) {
        lost.push_back(token);
      }
    }
    keep_candidates(cut, kv_head, lost, decision);
    std::vector<bool> grows(kept.size(), false);
    for (const int token : lost) {
      const auto first = std::upper_bound(kept.begin(), kept.end(), token);
      const auto count = std::min<std::ptrdiff_t>(kept.end() - first, window_);
      const auto compared = beside_recent_ ? kept.end() - first : count;
      double beside = 0;
      for (auto other = first; other != first + compared; ++other) {
        beside += static_cast<double>(cut.received[*other]) / static_cast<double>(compared);
      }
      if (count == 0 || !taken(cut, token, beside)) {
        decline(decision, kv_head, token);
        continue;
      }
      const auto part =
          static_cast<float>(1.0 / static_cast<double>(fixed_part_ ? window_ : count));
      for (auto target = first; target != first + count; ++target) {
        fold(decision, kv_head, token, *target, 0, part, part);
        grows[static_cast<std::size_t>(target - kept.begin())] = true;
      }
    }
    for (std::size_t at = 0; at < kept.size(); ++at) {
      if (grows[at]) {  // its own value stays whole: sums, not means
        decision.edges.push_back({kv_head, kept[at], kept[at], 0, 1, 1, 1, -1});
      }
    }
  }

  int window_;
  int candidates_;
  std::string received_;
  bool by_score_;
  bool beside_recent_;
  bool fixed_part_;
  std::string chance_;
  std::uint64_t seed_;
};

}  // namespace

PieceEntry cam_entry() {
  PieceEntry entry;
  entry.info.name = "cam";
  entry.info.kind = PieceInfo::Kind::merger;
  entry.info.summary =
      "adds evicted values, in equal parts, to the kept tokens that follow, with a probability by "
      "the attention they received; keys stay";
  entry.info.paper = "Zhang et al. 2024 (CaM), openreview LCTmppB165; kvpress CAMPress, zyxxmu/cam";
  entry.info.departures =
      "kvpress's rule as it stands; its whole loop is SCORER | top_k:heads=mean | cam | "
      "decode:trigger=since_cut,every=512, since it evicts the same tokens from all heads. The "
      "authors' LLaMA code is streaming_llm | cam:received=newest,beside=recent,part=window | "
      "decode:every=1, and in other files chance=above or received=decode,window=16. Draws are "
      "keyed by seed, layer, token and what the token received";
  entry.info.parameters = {
      integer_parameter("window", 32, "1..", "kept tokens", "a value is spread over more"),
      integer_parameter(
          "candidates", 0, "0..", "tokens",
          "more evicted tokens of a head may merge at a cut; 0: as many as were decoded since the "
          "cut before, as in kvpress, so that a cut after the prompt merges none"),
      choice_parameter("received", "decode|all|newest",
                       "whose attention counts: that of decode steps, every query's so far, or the "
                       "newest query's alone"),
      choice_parameter("rank", "score|received",
                       "what makes an evicted token a candidate: the score of the cut, mean over "
                       "heads, or the attention it received"),
      choice_parameter("beside", "targets|recent",
                       "whose mean attention a token's own is compared with: that of the kept "
                       "tokens it would join, or of all kept tokens behind it"),
      choice_parameter(
          "part", "targets|window",
          "a value is divided by the tokens it joins, or by `window` even if these are "
          "fewer"),
      choice_parameter("chance", "drawn|half|above",
                       "drawn at random; half: whatever is more likely than not; above: whatever "
                       "received more than the mean, both without chance"),
      integer_parameter("seed", 0, "0..", "", "another draw")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.merger = std::make_unique<Cam>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
