#include <cmath>
#include <span>
#include <utility>

#include "registry/entry.h"
#include "scorers/draws.h"
#include "selectors/ordering.h"

namespace kvscope::detail {
namespace {

/// The highest scores after a seeded disturbance: how much a choice depends on small differences.
class Noise : public Selector {
 public:
  Noise(double deviation, std::uint64_t seed) : deviation_(deviation), seed_(seed) {}

  std::vector<int> select(const HeadScores& head, int slots) const override {
    const double scale = deviation_ * spread_of(head.scores);
    const std::uint64_t key = mix(seed_);
    std::vector<std::uint64_t> words;
    words.reserve(head.scores.size());
    for (std::size_t token = 0; token < head.scores.size(); ++token) {
      if (!head.protection.covers(static_cast<int>(token))) {
        const float score = head.scores[token];
        const double moved = static_cast<double>(score) +
                             scale * normal_draw(key ^ mix(bits_of(score) << 32 | token));
        words.push_back(rank_word(deviation_ > 0 ? static_cast<float>(moved) : score, token));
      }
    }
    return best_tokens(std::move(words), slots);
  }

 private:
  /// Standard deviation of a head's scores, whatever rules protect, so that a larger budget moves
  /// none of them; 1 where they are all the same.
  static double spread_of(std::span<const float> scores) {
    double count = 0;
    double sum = 0;
    double squares = 0;
    for (const float score : scores) {
      if (std::isfinite(score)) {
        count += 1;
        sum += static_cast<double>(score);
        squares += static_cast<double>(score) * static_cast<double>(score);
      }
    }
    const double variance = count > 0 ? squares / count - sum / count * (sum / count) : 0;
    return variance > 0 ? std::sqrt(variance) : 1;
  }

  double deviation_;
  std::uint64_t seed_;
};

}  // namespace

PieceEntry noise_entry() {
  PieceEntry entry;
  entry.info.name = "noise";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary =
      "top_k after seeded noise on the scores: a control, what a choice owes to small differences; "
      "deviation=0 is top_k, bit for bit";
  entry.info.paper = "none; alpha's paper rejects scoring changes it does not define";
  entry.info.departures =
      "our reading: normal noise in units of a head's spread of scores; a very "
      "small one only breaks ties by chance";
  entry.info.parameters = {
      real_parameter("deviation", 0.1, "0..", "standard deviations of the head's scores",
                     "choices are disturbed more"),
      integer_parameter("seed", 0, "0..", "", "another draw")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = std::make_unique<Noise>(arguments.real("deviation"),
                                             static_cast<std::uint64_t>(arguments.integer("seed")));
  };
  return entry;
}

}  // namespace kvscope::detail
