#include <utility>

#include "registry/entry.h"
#include "selectors/ordering.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

class TopK : public Selector {
 public:
  std::vector<int> select(const HeadScores& head, int slots) const override {
    std::vector<std::uint64_t> words;
    words.reserve(head.scores.size());
    for (std::size_t token = 0; token < head.scores.size(); ++token) {
      if (!head.protection.covers(static_cast<int>(token))) {
        words.push_back(rank_word(head.scores[token], token));
      }
    }
    return best_tokens(std::move(words), slots);
  }
};

}  // namespace

std::unique_ptr<Selector> make_top_k() {
  return std::make_unique<TopK>();
}

PieceEntry top_k_entry() {
  PieceEntry entry;
  entry.info.name = "top_k";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary = "the highest scores stay; of equal scores, the lower token";
  entry.build = [](const Arguments&, Parts& parts) { parts.selector = make_top_k(); };
  return entry;
}

}  // namespace kvscope::detail
