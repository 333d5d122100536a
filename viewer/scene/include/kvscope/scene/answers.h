#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace kvscope {

/// What one method's run answered, as `kvscope generate` found it.
struct Answer {
  std::string method;  ///< canonical text, as in the decision
  std::string keep;
  std::string text;
  int first_divergence = -1;  ///< first answer token that differs from the full cache's; -1 = none
  double mean_divergence =
      std::numeric_limits<double>::quiet_NaN();  ///< KL(full || compressed), nats
  std::int64_t cache_bytes = 0;
};

/// The file answers.json of `kvscope generate -o DIR`.
struct Answers {
  std::string full;  ///< of the uncompressed cache
  std::vector<Answer> methods;

  /// The answer of a method at a budget; null if there is none.
  const Answer* of(const std::string& method, const std::string& keep) const;
};

/// Throws Error{corrupt_file} if `json` is no such file, Error{usage} if it belongs to another
/// prompt or model.
Answers read_answers(const std::string& json, const std::string& capture_hash,
                     const std::string& where);

/// Bytes two texts share at their beginning, cut back to a whole UTF-8 character.
std::size_t shared_beginning(const std::string& a, const std::string& b);

}  // namespace kvscope
