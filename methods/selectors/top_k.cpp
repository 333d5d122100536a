#include <utility>

#include "registry/entry.h"
#include "selectors/ordering.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

class TopK : public Selector {
 public:
  explicit TopK(bool shared) : shared_(shared) {}

  std::vector<int> select(const HeadScores& head, int slots) const override {
    std::vector<std::uint64_t> words;
    words.reserve(head.scores.size());
    for (std::size_t token = 0; token < head.scores.size(); ++token) {
      if (!head.protection.covers(static_cast<int>(token))) {
        words.push_back(
            rank_word(shared_ ? mean_of_heads(head, token) : head.scores[token], token));
      }
    }
    return best_tokens(std::move(words), slots);
  }

 private:
  static float mean_of_heads(const HeadScores& head, std::size_t token) {
    const std::size_t tokens = head.scores.size();
    double sum = 0;
    for (std::size_t cell = token; cell < head.layer.size(); cell += tokens) {
      sum += static_cast<double>(head.layer[cell]);
    }
    return static_cast<float>(sum / static_cast<double>(head.layer.size() / tokens));
  }

  bool shared_;
};

}  // namespace

std::unique_ptr<Selector> make_top_k() {
  return std::make_unique<TopK>(false);
}

PieceEntry top_k_entry() {
  PieceEntry entry;
  entry.info.name = "top_k";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary = "the highest scores stay; of equal scores, the lower token";
  entry.info.parameters = {choice_parameter(
      "heads", "each|mean",
      "each KV head by its own scores, or all heads of a layer by the mean of theirs")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = std::make_unique<TopK>(arguments.text("heads") == "mean");
  };
  return entry;
}

}  // namespace kvscope::detail
