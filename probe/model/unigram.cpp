#include "unigram.h"

#include <algorithm>
#include <limits>

namespace kvscope {

std::size_t character_size(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t size = lead < 0xC2   ? 1
                           : lead < 0xE0 ? 2
                           : lead < 0xF0 ? 3
                           : lead < 0xF5 ? 4
                                         : 1;
  if (at + size > text.size()) {
    return 1;
  }
  for (std::size_t byte = at + 1; byte < at + size; ++byte) {
    if ((static_cast<unsigned char>(text[byte]) & 0xC0) != 0x80) {
      return 1;
    }
  }
  return size;
}

UnigramSplitter::UnigramSplitter(const std::unordered_map<std::string_view, std::int32_t>& ids,
                                 std::vector<double> scores, bool single_precision)
    : ids_(ids), scores_(std::move(scores)), single_precision_(single_precision) {
  double worst = std::numeric_limits<double>::max();
  for (const auto& [text, id] : ids_) {
    longest_ = std::max(longest_, text.size());
    worst = std::min(worst, scores_[static_cast<std::size_t>(id)]);
  }
  unknown_score_ = sum(worst, -10.0);
}

double UnigramSplitter::sum(double left, double right) const {
  return single_precision_
             ? static_cast<double>(static_cast<float>(left) + static_cast<float>(right))
             : left + right;
}

std::vector<std::pair<std::string_view, std::int32_t>> UnigramSplitter::split(
    std::string_view text) const {
  struct Best {
    double score = -std::numeric_limits<double>::infinity();
    std::size_t begin = 0;
    std::int32_t id = -1;
  };
  std::vector<Best> best(text.size() + 1);
  best[0].score = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t character = character_size(text, begin);
    bool known = false;
    for (std::size_t end = begin + 1; end <= std::min(text.size(), begin + longest_); ++end) {
      const auto found = ids_.find(text.substr(begin, end - begin));
      if (found == ids_.end()) {
        continue;
      }
      known = known || end == begin + character;
      const double score = sum(scores_[static_cast<std::size_t>(found->second)], best[begin].score);
      if (score > best[end].score) {
        best[end] = {score, begin, found->second};
      }
    }
    const double fallback = sum(unknown_score_, best[begin].score);
    if (!known && fallback > best[begin + character].score) {
      best[begin + character] = {fallback, begin, -1};
    }
    begin += character;
  }
  std::vector<std::pair<std::string_view, std::int32_t>> pieces;
  for (std::size_t end = text.size(); end > 0; end = best[end].begin) {
    pieces.emplace_back(text.substr(best[end].begin, end - best[end].begin), best[end].id);
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

}  // namespace kvscope
