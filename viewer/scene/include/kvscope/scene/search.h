#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// Tokens [first, last) that a search found.
struct Match {
  int first = 0;
  int last = 0;
  bool operator==(const Match&) const = default;
};

struct SearchResult {
  std::vector<Match> matches;  ///< ascending
  bool cut_short = false;      ///< there are more than `most_matches`
  std::string meaning;         ///< what was looked for, in words
  std::string problem;         ///< why nothing could be looked for, or empty
};

inline constexpr int most_matches = 100000;

/// Searches the text and decision A for `state.query`:
///   7421            bytes of the text; case counts only if the query has a capital
///   /\d{4}/         ECMAScript regular expression over the text (the first MiB of it)
///   #1387           token id
///   @81204          token at this index
///   class:digit     sink, template, question, space, digit, punctuation, word
///   lost>=100       tokens that hold no slot in at least 100 (layer, KV head) places of A
///   merged, dropped, evicted, kept     in the state's layer and any selected head
///   only:a, only:b  held by one of the two decisions in that layer and any selected head
SearchResult search(const Scene& scene, const State& state);

/// The index of the match after (`by` > 0) or before the state's token, around the ends; -1 = none.
int match_beside(const std::vector<Match>& matches, int token, int by);

}  // namespace kvscope
