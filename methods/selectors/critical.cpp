#include <algorithm>
#include <utility>

#include "registry/entry.h"
#include "selectors/ordering.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

/// Two stages: the best by score, then the best by score times the size of the projected value.
class Critical : public Selector {
 public:
  Critical(double first, double epsilon) : first_(first), epsilon_(static_cast<float>(epsilon)) {}

  Rows reads() const override { return Rows::projected_norms; }

  std::vector<int> select(const HeadScores& head, int slots) const override {
    std::vector<std::uint64_t> words;
    words.reserve(head.scores.size());
    for (std::size_t token = 0; token < head.scores.size(); ++token) {
      if (!head.protection.covers(static_cast<int>(token))) {
        words.push_back(rank_word(head.scores[token], token));
      }
    }
    const int first =
        std::clamp(first_stage(head, slots) - head.protection.count, 0, std::max(slots, 0));
    std::vector<int> kept = best_tokens(words, first);
    std::vector<bool> chosen(head.scores.size(), false);
    for (const int token : kept) {
      chosen[static_cast<std::size_t>(token)] = true;
    }
    std::vector<std::uint64_t> rest;
    for (const std::uint64_t word : words) {
      const std::size_t token = index_of(word);
      if (!chosen[token]) {
        rest.push_back(rank_word((head.scores[token] + epsilon_) * head.rows[token], token));
      }
    }
    const std::vector<int> second =
        best_tokens(std::move(rest), slots - static_cast<int>(kept.size()));
    kept.insert(kept.end(), second.begin(), second.end());
    return kept;
  }

 private:
  /// Slots filled by score alone; protected tokens and an allocator's floor count towards them.
  int first_stage(const HeadScores& head, int slots) const {
    const int share = static_cast<int>((slots + head.protection.count) * first_);
    // kvpress since 0.5.5, without a floor for each head: a share above 0 is at least one token.
    const int least = head.guaranteed >= 0 ? head.guaranteed : first_ > 0 ? 1 : 0;
    return std::max(share, least);
  }

  double first_;
  float epsilon_;
};

}  // namespace

std::vector<ParameterInfo> critical_parameters() {
  return {real_parameter("first", 0.5, "0..1", "of the slots",
                         "more slots are filled by the score alone; 1 is top_k"),
          real_parameter("epsilon", 1e-4, "0..", "of the score",
                         "in the second stage the value's size weighs more beside small scores")};
}

std::unique_ptr<Selector> make_critical(const Arguments& arguments) {
  return std::make_unique<Critical>(arguments.real("first"), arguments.real("epsilon"));
}

PieceEntry critical_entry() {
  PieceEntry entry;
  entry.info.name = "critical";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary =
      "fills half of the slots by score, the rest by score times the L1 norm of the value after "
      "the "
      "output projection";
  entry.info.paper = "Feng et al. 2025 (CriticalKV), arXiv:2502.03805; kvpress CriticalKVPress";
  entry.info.departures =
      "the first stage is a share of whole slots; kvpress takes it of the unrounded budget";
  entry.info.parameters = critical_parameters();
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = make_critical(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
