#include <utility>

#include "registry/entry.h"
#include "selectors/ordering.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

class Threshold : public Selector {
 public:
  explicit Threshold(double at) : at_(static_cast<float>(at)) {}

  std::vector<int> select(const HeadScores& head, int) const override {
    std::vector<std::uint64_t> words;
    for (std::size_t token = 0; token < head.scores.size(); ++token) {
      if (!head.protection.covers(static_cast<int>(token)) && head.scores[token] >= at_) {
        words.push_back(rank_word(head.scores[token], token));
      }
    }
    const int all = static_cast<int>(words.size());
    return best_tokens(std::move(words), all);
  }

  Reason reason() const override { return Reason::threshold; }
  bool fills_grant() const override { return false; }

 private:
  float at_;
};

}  // namespace

std::unique_ptr<Selector> make_threshold(double at) {
  return std::make_unique<Threshold>(at);
}

PieceEntry threshold_entry() {
  PieceEntry entry;
  entry.info.name = "threshold";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary = "every score of at least `at` stays, whatever the budget";
  entry.info.paper = "the rule of DMS, Lancucki et al. 2025, arXiv:2506.05345, on any score";
  entry.info.departures = "the newest tokens stay only if the scorer protects them";
  entry.info.parameters = {real_parameter("at", 0.0, "..", "of the score", "fewer tokens stay")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = make_threshold(arguments.real("at"));
  };
  return entry;
}

}  // namespace kvscope::detail
