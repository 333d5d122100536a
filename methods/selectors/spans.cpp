#include <algorithm>
#include <cstddef>
#include <vector>

#include "registry/entry.h"
#include "selectors/ordering.h"

namespace kvscope::detail {
namespace {

/// The best tokens of each span of the sequence: even coverage.
class Spans : public Selector {
 public:
  explicit Spans(int size) : size_(size) {}

  std::vector<int> select(const HeadScores& head, int) const override {
    const int tokens = head.protection.tokens();
    std::vector<int> stay;
    for (int first = 0; first < tokens; first += size_) {
      const int length = std::min(size_, tokens - first);
      std::vector<std::uint64_t> words;
      for (int token = first; token < first + length; ++token) {
        if (!head.protection.covers(token)) {
          words.push_back(rank_word(head.scores[static_cast<std::size_t>(token)],
                                    static_cast<std::uint64_t>(token)));
        }
      }
      const int ruled = length - static_cast<int>(words.size());
      const int share = std::max(1, head.budget.of(length, tokens));
      const std::vector<int> best = best_tokens(std::move(words), share - ruled);
      stay.insert(stay.end(), best.begin(), best.end());
    }
    std::sort(stay.begin(), stay.end(), [&](int a, int b) {
      const float left = head.scores[static_cast<std::size_t>(a)];
      const float right = head.scores[static_cast<std::size_t>(b)];
      return left != right ? left > right : a < b;
    });
    return stay;
  }

  bool fills_grant() const override { return false; }

 private:
  int size_;
};

}  // namespace

PieceEntry spans_entry() {
  PieceEntry entry;
  entry.info.name = "spans";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary =
      "the best of each span of the prompt stay, by the budget's share of it, so that every part "
      "is represented";
  entry.info.paper = "the chunks of Finch, Corallo and Papotti 2024, arXiv:2408.00167; kvpress";
  entry.info.departures =
      "a span keeps at least one token; protected tokens count towards their span's share, and "
      "stay even beyond it";
  entry.info.parameters = {integer_parameter("size", 1024, "1..", "tokens", "fewer, longer spans")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = std::make_unique<Spans>(arguments.integer("size"));
  };
  return entry;
}

}  // namespace kvscope::detail
