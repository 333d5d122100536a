#include "cadences/merge_ledger.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvscope::detail {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

template <typename T>
void widen_plane(std::vector<T>& plane, int rows, int before, int after, T fill) {
  std::vector<T> wider(static_cast<std::size_t>(rows) * static_cast<std::size_t>(after), fill);
  for (int row = 0; row < rows; ++row) {
    std::copy_n(plane.begin() + static_cast<std::ptrdiff_t>(row) * before, before,
                wider.begin() + static_cast<std::ptrdiff_t>(row) * after);
  }
  plane = std::move(wider);
}

/// One KV head's part of a cut.
class HeadCut {
 public:
  HeadCut(const ChunkView& view, int kv_head, int event, LayerDecision& decision)
      : view_(view), kv_head_(kv_head), event_(event), decision_(decision) {}

  void keep_by_score() {
    for (int slot = 0; slot < view_.past; ++slot) {
      decision_.reason[cell(slot)] = slot < view_.sink ? Reason::sink : Reason::score;
    }
  }

  void merge(const PairRun& pairs, const PairMergeRule& rule, PairWeigher& weigher) {
    const int first = view_.sink + pairs.first;
    const int members = rule.chain ? pairs.pairs + 1 : 2;
    const MergedRun run = weigher.weigh(view_, kv_head_, pairs.first, members);
    int row = -1;
    if (!run.key.empty()) {
      decision_.key_row_dim = static_cast<int>(run.key.size());
      row = static_cast<int>(decision_.key_rows.size() / run.key.size());
      decision_.key_rows.insert(decision_.key_rows.end(), run.key.begin(), run.key.end());
    }
    double held = 0;
    for (int member = 0; member < members; ++member) {
      const double count =
          capped(held + view_.multiplicity(kv_head_, first + member), rule) - capped(held, rule);
      held += view_.multiplicity(kv_head_, first + member);
      decision_.edges.push_back({kv_head_, token(first + member), token(first), event_,
                                 static_cast<float>(run.weight[static_cast<std::size_t>(member)]),
                                 1.0F, static_cast<float>(count), row});
      if (member > 0) {
        remove(first + member, Fate::merged);
      }
    }
    for (int slot = first + members; slot <= first + pairs.pairs; ++slot) {
      remove(slot, Fate::dropped);
    }
  }

  void score(const PairScores& scores, std::span<const int> chosen, const LedgerOptions& options) {
    Cut& cut = decision_.cut[static_cast<std::size_t>(kv_head_)];
    cut.last_kept = cut.first_lost = nan;
    auto next = chosen.begin();
    for (int pair = 0; pair < view_.pairs(); ++pair) {
      const auto i = static_cast<std::size_t>(pair);
      const auto score = static_cast<float>(scores.score[i]);
      const bool lost = next != chosen.end() && *next == pair;
      if (lost) {
        ++next;
      }
      float& edge = lost ? cut.first_lost : cut.last_kept;
      edge = std::isnan(edge) ? score : lost ? std::max(edge, score) : std::min(edge, score);
      const std::size_t at = cell(view_.sink + pair + 1);
      if (options.scores) {
        decision_.scores[at] = score;
      }
      if (options.terms) {
        const std::size_t plane = decision_.fate.size();
        decision_.terms[at] = static_cast<float>(scores.mass[i]);
        decision_.terms[plane + at] = static_cast<float>(1 / scores.decay[i]);
        decision_.terms[2 * plane + at] = static_cast<float>(scores.count[i]);
      }
    }
  }

 private:
  static double capped(double count, const PairMergeRule& rule) {
    return rule.clamp > 0 ? std::min(count, static_cast<double>(rule.clamp)) : count;
  }
  int token(int slot) const {
    const SlotTable& table = view_.evidence.slots();
    return table.token[table.cell(kv_head_, slot)];
  }
  std::size_t cell(int slot) const { return decision_.cell(kv_head_, token(slot)); }
  void remove(int slot, Fate fate) {
    decision_.fate[cell(slot)] = fate;
    decision_.removed_at[cell(slot)] = static_cast<std::uint32_t>(event_);
  }

  const ChunkView& view_;
  int kv_head_;
  int event_;
  LayerDecision& decision_;
};

}  // namespace

void widen(LayerDecision& decision, int tokens) {
  const int before = decision.tokens;
  const int heads = decision.kv_heads;
  widen_plane(decision.fate, heads, before, tokens, Fate::kept);
  widen_plane(decision.reason, heads, before, tokens, Reason::within_budget);
  widen_plane(decision.removed_at, heads, before, tokens, alive);
  if (!decision.scores.empty()) {
    widen_plane(decision.scores, heads, before, tokens, nan);
  }
  if (!decision.terms.empty()) {
    widen_plane(decision.terms, pair_terms * heads, before, tokens, nan);
  }
  decision.tokens = tokens;
}

void enter_cut(const ChunkView& view, const PairMergeRule& rule, PairWeigher& weigher, int remove,
               int event, const LedgerOptions& options, LayerDecision& decision) {
  const PairScores scores = score_pairs(view, rule.ranking);
  const std::vector<int> chosen = cheapest_pairs(scores.score, remove);
  const std::vector<PairRun> runs = runs_of(chosen);
  const int kept = view.past - static_cast<int>(chosen.size());
  if (options.scores && decision.scores.empty()) {
    decision.scores.assign(decision.fate.size(), nan);
  }
  if (options.terms && decision.terms.empty()) {
    decision.terms.assign(pair_terms * decision.fate.size(), nan);
  }
  for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
    HeadCut cut(view, kv_head, event, decision);
    cut.keep_by_score();
    decision.granted[static_cast<std::size_t>(kv_head)] = kept;
    decision.cut[static_cast<std::size_t>(kv_head)].granted = static_cast<float>(kept);
    for (const PairRun& run : runs) {
      cut.merge(run, rule, weigher);
    }
    cut.score(scores, chosen, options);
  }
}

}  // namespace kvscope::detail
