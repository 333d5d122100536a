#include "pre_tokenizer.h"

#include <fmt/format.h>

#include "kvscope/core/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace kvscope {
namespace {

constexpr const char* gpt2_words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* single_numbers = R"(\p{N})";
constexpr const char* number_runs = R"(\p{N}+)";
constexpr const char* llama3_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr const char* gpt4o_words =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* tekken_words =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* punctuation_runs = R"([\p{P}$+<=>^~|`]+)";
constexpr const char* three_digits = "[0-9][0-9][0-9]";

struct Rule {
  const char* name;
  std::vector<const char*> patterns;
  bool ignores_merges;
};

/// Names as llama.cpp writes them into GGUF files.
const std::vector<Rule>& rules() {
  static const std::vector<Rule> all = {
      {"gpt2", {gpt2_words}, false},
      {"gpt-2", {gpt2_words}, false},
      {"smollm", {single_numbers, gpt2_words}, false},
      {"llama-bpe", {llama3_words}, true},
      {"llama3", {llama3_words}, true},
      {"dbrx", {llama3_words}, false},
      {"qwen2", {qwen2_words}, false},
      {"gpt-4o", {gpt4o_words}, false},
      {"tekken", {tekken_words}, true},
      {"falcon", {punctuation_runs, gpt2_words, three_digits}, false}};
  return all;
}

}  // namespace

struct PreTokenizer::Pattern {
  explicit Pattern(const char* source) {
    int code = 0;
    PCRE2_SIZE at = 0;
    regex = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source), PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &code, &at, nullptr);
    KVSCOPE_CHECK(regex != nullptr, ErrorCode::failed,
                  fmt::format("PCRE2 error {} at {} of a pre-tokenizer", code, at), source);
    pcre2_jit_compile(regex, PCRE2_JIT_COMPLETE);
  }
  ~Pattern() { pcre2_code_free(regex); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  /// Appends matches and the gaps between them.
  void split(std::string_view text, std::vector<std::string_view>& out) const {
    pcre2_match_data* match = pcre2_match_data_create_from_pattern(regex, nullptr);
    std::size_t done = 0;
    std::size_t from = 0;
    while (from < text.size()) {
      const int found = pcre2_match(regex, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                    from, 0, match, nullptr);
      if (found <= 0) {
        break;
      }
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
      if (range[1] <= range[0]) {
        from = range[1] + 1;
        continue;
      }
      if (range[0] > done) {
        out.push_back(text.substr(done, range[0] - done));
      }
      out.push_back(text.substr(range[0], range[1] - range[0]));
      done = from = range[1];
    }
    if (done < text.size()) {
      out.push_back(text.substr(done));
    }
    pcre2_match_data_free(match);
  }

  pcre2_code* regex = nullptr;
};

PreTokenizer::PreTokenizer(const std::string& name, const std::string& where) {
  std::string known;
  for (const Rule& rule : rules()) {
    if (name == rule.name) {
      for (const char* pattern : rule.patterns) {
        patterns_.push_back(std::make_unique<Pattern>(pattern));
      }
      ignores_merges_ = rule.ignores_merges;
    }
    known += known.empty() ? rule.name : fmt::format(", {}", rule.name);
  }
  KVSCOPE_CHECK(!patterns_.empty(), ErrorCode::unsupported,
                fmt::format("pre-tokenizer '{}' is not supported (known: {})", name, known), where,
                "pass token ids with --token-ids");
}

PreTokenizer::PreTokenizer(const std::vector<std::string>& patterns, bool ignores_merges,
                           const std::string& where)
    : ignores_merges_(ignores_merges) {
  for (const std::string& wanted : patterns) {
    const std::size_t before = patterns_.size();
    for (const char* known : {gpt2_words, single_numbers, number_runs, llama3_words, qwen2_words,
                              gpt4o_words, tekken_words, punctuation_runs, three_digits}) {
      if (wanted == known) {
        patterns_.push_back(std::make_unique<Pattern>(known));
        break;
      }
    }
    KVSCOPE_CHECK(patterns_.size() > before, ErrorCode::unsupported,
                  fmt::format("the pre-tokenizer pattern '{}' is not known", wanted.substr(0, 80)),
                  where, "pass token ids with --token-ids");
  }
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string_view> words = {text};
  for (const auto& pattern : patterns_) {
    std::vector<std::string_view> finer;
    for (const std::string_view word : words) {
      pattern->split(word, finer);
    }
    words = std::move(finer);
  }
  return words;
}

}  // namespace kvscope
