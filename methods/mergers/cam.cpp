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
        decode_rows_(arguments.text("received") == "decode"),
        drawn_(arguments.text("chance") == "drawn"),
        seed_(static_cast<std::uint64_t>(arguments.integer("seed"))) {}

  void merge(const LayerEvidence& evidence, LayerDecision& decision) const override {
    check_finite(evidence);
    const at::Tensor sums = received(evidence);
    const std::uint64_t base =
        mix(mix(seed_ ^ mix(evidence.random_seed())) ^ static_cast<std::uint64_t>(decision.layer));
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      const int most = candidates_ > 0 ? candidates_ : evidence.moment().step;
      merge_head(sums.const_data_ptr<float>() + kv_head * sums.size(1), most, base, kv_head,
                 decision);
    }
    sort_edges(decision);
  }

 private:
  /// Attention received so far, mean over a group's query heads: [kv_heads, slots].
  at::Tensor received(const LayerEvidence& evidence) const {
    const at::Tensor sums =
        (decode_rows_ ? evidence.decode_attention_sum() : evidence.attention_sum()).cpu();
    const std::int64_t kv_heads = evidence.shape().kv_heads;
    return sums.view({kv_heads, sums.size(0) / kv_heads, sums.size(1)}).mean(1).contiguous();
  }

  /// The `most` evicted tokens that received most attention are those that may merge; of equal ones
  /// the later.
  static void keep_candidates(const float* received, int most, int kv_head, std::vector<int>& lost,
                              LayerDecision& decision) {
    std::stable_sort(lost.begin(), lost.end(), [&](int a, int b) {
      return received[a] != received[b] ? received[a] > received[b] : a > b;
    });
    const std::size_t count = std::min(lost.size(), static_cast<std::size_t>(most));
    for (std::size_t at = count; at < lost.size(); ++at) {
      decline(decision, kv_head, lost[at]);
    }
    lost.resize(count);
  }

  void merge_head(const float* received, int most, std::uint64_t key, int kv_head,
                  LayerDecision& decision) const {
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
    keep_candidates(received, most, kv_head, lost, decision);
    std::vector<bool> grows(kept.size(), false);
    for (const int token : lost) {
      const auto first = std::upper_bound(kept.begin(), kept.end(), token);
      const auto count = std::min<std::ptrdiff_t>(kept.end() - first, window_);
      double beside = 0;
      for (auto target = first; target != first + count; ++target) {
        beside += static_cast<double>(received[*target]) / static_cast<double>(count);
      }
      // 0 / 0 is 0, and x / 0 certain, as in the reference.
      const double own = static_cast<double>(received[token]);
      const double chance = own > 0 ? (beside > 0 ? std::min(own / beside, 1.0) : 1.0) : 0.0;
      const std::uint64_t place = bits_of(received[token]) << 32 | static_cast<unsigned>(token);
      const double draw = drawn_ ? static_cast<double>(uniform_draw(key ^ mix(place))) : 0.5;
      if (count == 0 || !(draw < chance)) {
        decline(decision, kv_head, token);
        continue;
      }
      const auto part = static_cast<float>(1.0 / static_cast<double>(count));
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
  bool decode_rows_;
  bool drawn_;
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
      "attention received counts all queries so far, prompt and decode (received=decode: decode "
      "rows alone, as kvpress), and ranks the candidates (kvpress: the base score, of all heads "
      "alike); draws are keyed by seed, layer, token and what the token received. kvpress's loop "
      "is decode:trigger=interval";
  entry.info.parameters = {
      integer_parameter("window", 32, "1..", "kept tokens", "a value is spread over more"),
      integer_parameter(
          "candidates", 0, "0..", "tokens",
          "more evicted tokens of a head may merge at a cut; 0: as many as tokens were "
          "decoded, as in kvpress, so that a cut after the prompt merges none"),
      choice_parameter("received", "all|decode",
                       "whose attention counts: every query's, or that of decode steps alone"),
      choice_parameter("chance", "drawn|half",
                       "drawn at random; half: whatever is more likely than not, without chance"),
      integer_parameter("seed", 0, "0..", "", "another draw")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.merger = std::make_unique<Cam>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
