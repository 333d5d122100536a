#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "registry/entry.h"
#include "selectors/ordering.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

/// Whole chunks of neighbouring tokens stay, the same in all heads of a layer.
class Chunks : public Selector {
 public:
  explicit Chunks(int size) : size_(size) {}

  std::vector<int> select(const HeadScores& head, int) const override {
    const int tokens = head.protection.tokens();
    if (tokens < size_) {
      return single_tokens(head);
    }
    const std::vector<double> sums = summed(head);
    std::vector<std::uint64_t> words;
    for (int first = 0; first < tokens; first += size_) {
      const int length = std::min(size_, tokens - first);
      double sum = 0;
      for (int token = first; token < first + length; ++token) {
        sum += sums[static_cast<std::size_t>(token)];
      }
      words.push_back(
          rank_word(static_cast<float>(sum / length), static_cast<std::uint64_t>(first / size_)));
    }
    const int kept = std::max(1, head.budget.of(static_cast<int>(words.size()), tokens));
    std::vector<int> stay;
    for (const int chunk : best_tokens(std::move(words), kept)) {
      for (int token = chunk * size_; token < std::min((chunk + 1) * size_, tokens); ++token) {
        if (!head.protection.covers(token)) {
          stay.push_back(token);
        }
      }
    }
    return stay;
  }

  bool fills_grant() const override { return false; }

 private:
  /// Fewer tokens than a chunk: the best of the head.
  static std::vector<int> single_tokens(const HeadScores& head) {
    std::vector<std::uint64_t> words;
    for (std::size_t token = 0; token < head.scores.size(); ++token) {
      if (!head.protection.covers(static_cast<int>(token))) {
        words.push_back(rank_word(head.scores[token], token));
      }
    }
    return best_tokens(std::move(words), head.budget.slots - head.protection.count);
  }

  /// Scores summed over the heads: [tokens]. A protected token counts one more than the layer's
  /// best in each head.
  static std::vector<double> summed(const HeadScores& head) {
    const std::size_t tokens = head.scores.size();
    const auto covered = [&](std::size_t token) {
      return head.protection.covers(static_cast<int>(token));
    };
    float best = -std::numeric_limits<float>::infinity();
    for (std::size_t cell = 0; cell < head.layer.size(); ++cell) {
      best = covered(cell % tokens) ? best : std::max(best, head.layer[cell]);
    }
    const double padding = std::isfinite(best) ? static_cast<double>(best) + 1 : 1;
    std::vector<double> sums(tokens, 0.0);
    for (std::size_t cell = 0; cell < head.layer.size(); ++cell) {
      const std::size_t token = cell % tokens;
      sums[token] += covered(token) ? padding : static_cast<double>(head.layer[cell]);
    }
    return sums;
  }

  int size_;
};

}  // namespace

std::unique_ptr<Selector> make_chunks(int size) {
  return std::make_unique<Chunks>(size);
}

ParameterInfo chunk_size_parameter() {
  return integer_parameter("size", 20, "1..", "tokens", "longer spans stay or go as one");
}

PieceEntry chunks_entry() {
  PieceEntry entry;
  entry.info.name = "chunks";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary =
      "whole chunks of neighbouring tokens stay, best mean score first, the same in all heads of a "
      "layer";
  entry.info.paper = "Liu et al. 2025 (ChunkKV), arXiv:2502.00299; kvpress ChunkKVPress";
  entry.info.departures =
      "kvpress's form (chunks of 20, the paper's are of 10), without the paper's reuse of a choice "
      "in later layers; protected tokens stay even where their chunk goes; the budget is a share "
      "of the chunks, so that the slots kept differ from it";
  entry.info.scope = "layer";
  entry.info.parameters = {chunk_size_parameter()};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = make_chunks(arguments.integer("size"));
  };
  return entry;
}

}  // namespace kvscope::detail
