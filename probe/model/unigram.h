#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace kvscope {

/// Bytes of the character at `at`: 1 for whatever is no valid start of a longer one or is cut off.
std::size_t character_size(std::string_view text, std::size_t at);

/// The split of a text into pieces whose scores (log probabilities) have the greatest sum; a
/// character that no piece begins with costs 10 more than the worst piece. Cost: length of the text
/// times length of the longest piece.
class UnigramSplitter {
 public:
  /// `ids` must outlive the splitter; `scores` are by id. Ties go to the piece that begins first;
  /// what ties depends on the precision of the sums.
  UnigramSplitter(const std::unordered_map<std::string_view, std::int32_t>& ids,
                  std::vector<double> scores, bool single_precision);
  /// Pieces and their ids, -1 = unknown character.
  std::vector<std::pair<std::string_view, std::int32_t>> split(std::string_view text) const;

 private:
  double sum(double left, double right) const;

  const std::unordered_map<std::string_view, std::int32_t>& ids_;
  std::vector<double> scores_;
  bool single_precision_;
  std::size_t longest_ = 1;
  double unknown_score_ = 0;
};

}  // namespace kvscope
