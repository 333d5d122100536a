#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kvscope {

/// Splits text into words before BPE. Pieces that no pattern covers (invalid UTF-8) stay words of
/// their own.
class PreTokenizer {
 public:
  /// Throws Error{unsupported} listing the known names.
  PreTokenizer(const std::string& name, const std::string& where);
  /// By regular expressions, applied one after another. Only those that the known names use are
  /// taken: what a file asks for is a program, and engines differ in what they make of it.
  PreTokenizer(const std::vector<std::string>& patterns, bool ignores_merges,
               const std::string& where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  std::vector<std::string_view> split(std::string_view text) const;
  /// Whole words that are tokens are taken without merging (Llama 3).
  bool ignores_merges() const { return ignores_merges_; }

 private:
  struct Pattern;
  std::vector<std::unique_ptr<Pattern>> patterns_;
  bool ignores_merges_ = false;
};

}  // namespace kvscope
