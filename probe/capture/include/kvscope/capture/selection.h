#pragma once

#include <string>
#include <vector>

#include "kvscope/core/tokens.h"

namespace kvscope {

/// Numbers of [0, count) that a text selects, ascending: "all", "0-3,7", "every:4" (0, 4, 8...),
/// "last:64". Throws Error{usage} naming `flag` for anything else, and for what lies outside or
/// selects nothing.
std::vector<int> select_numbers(const std::string& text, int count, const std::string& flag);

/// `text` as `select_numbers` takes it, with the prompt's segments by name: "context", "question",
/// "template" become their ranges. Throws Error{usage} if the prompt has no such segment.
std::string with_segments(const std::string& text, const TokenTable& prompt,
                          const std::string& flag);

/// Which steps a text selects: as above with step 0 = the prompt; "prefill" is step 0 alone,
/// "decode" every other one, "none" none.
struct StepChoice {
  bool prompt = true;
  std::vector<int> decode;  ///< steps 1 to `new_tokens`, ascending
};
StepChoice select_steps(const std::string& text, int new_tokens);

}  // namespace kvscope
