#include "template_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <vector>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr std::size_t most_bytes = 256 << 10;
constexpr int most_brackets = 64;
constexpr int most_blocks = 100;
constexpr int most_words = 2000;

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

/// Walks the tags of a template, reading no more of Jinja than its brackets, strings and names.
class Walk {
 public:
  explicit Walk(const std::string& source) : source_(source) {}

  void run() {
    while (at_ < source_.size()) {
      const std::string_view two = std::string_view(source_).substr(at_, 2);
      if (two == "{#") {
        const std::size_t end = source_.find("#}", at_ + 2);
        at_ = end == std::string::npos ? source_.size() : end + 2;
      } else if (two == "{{" || two == "{%") {
        at_ += 2;
        tag(two == "{%");
      } else {
        ++at_;
      }
    }
  }

 private:
  void require(bool holds, const char* what, int most) const {
    KVSCOPE_CHECK(holds, ErrorCode::unsupported,
                  fmt::format("the model's chat template has more than {} {}", most, what),
                  template_place(source_, static_cast<long long>(at_)),
                  "no template of a model does; take the model from another source");
  }

  void tag(bool statement) {
    int brackets = 0;
    int words = 0;
    bool first = true;
    std::string_view name;
    bool assigns = false;
    while (at_ < source_.size()) {
      const char c = source_[at_];
      const std::string_view two = std::string_view(source_).substr(at_, 2);
      if (two == "%}" || (two == "}}" && brackets == 0)) {
        at_ += 2;
        block(name == "set" && assigns ? "" : name);
        return;
      }
      if (std::isspace(static_cast<unsigned char>(c)) != 0 || (first && c == '-')) {
        ++at_;
        continue;
      }
      require(++words <= most_words, "words and operators in one tag", most_words);
      if (is_word(c)) {
        const std::size_t begin = at_;
        while (at_ < source_.size() && is_word(source_[at_])) {
          ++at_;
        }
        if (statement && first) {
          name = std::string_view(source_).substr(begin, at_ - begin);
        }
      } else if (c == '\'' || c == '"') {
        string(c);
      } else {
        brackets += std::string_view("([{").find(c) != std::string_view::npos ? 1 : 0;
        brackets -= std::string_view(")]}").find(c) != std::string_view::npos ? 1 : 0;
        brackets = std::max(brackets, 0);
        assigns = assigns || (c == '=' && brackets == 0);
        require(brackets <= most_brackets, "brackets inside each other", most_brackets);
        ++at_;
      }
      first = false;
    }
  }

  void string(char quote) {
    for (++at_; at_ < source_.size() && source_[at_] != quote; ++at_) {
      at_ += source_[at_] == '\\' ? 1 : 0;
    }
    at_ = std::min(at_ + 1, source_.size());
  }

  /// Counts the block that a statement of this name opens or ends. A chain of elif nests as deep as
  /// it is long.
  void block(std::string_view name) {
    constexpr std::array<std::string_view, 6> blocks = {"if",   "for",    "macro",
                                                        "call", "filter", "set"};
    const auto opens = [&](std::string_view word) {
      return std::find(blocks.begin(), blocks.end(), word) != blocks.end();
    };
    if (name.starts_with("end") && opens(name.substr(3))) {
      if (!depths_.empty()) {
        depth_ -= depths_.back();
        depths_.pop_back();
      }
    } else if (name == "elif") {
      ++depth_;
      if (!depths_.empty()) {
        ++depths_.back();
      }
    } else if (opens(name)) {
      ++depth_;
      depths_.push_back(1);
    }
    require(depth_ <= most_blocks, "blocks inside each other", most_blocks);
  }

  const std::string& source_;
  std::size_t at_ = 0;
  int depth_ = 0;
  std::vector<int> depths_;
};

}  // namespace

void check_template(const std::string& source) {
  KVSCOPE_CHECK(!source.empty(), ErrorCode::unsupported, "the model has no chat template", "--chat",
                "give the prompt as plain text, without --chat");
  KVSCOPE_CHECK(source.size() <= most_bytes, ErrorCode::unsupported,
                fmt::format("the model's chat template has {} bytes, more than {}", source.size(),
                            most_bytes),
                "chat template", "no template of a model does; take the model from another source");
  Walk(source).run();
}

std::string template_place(const std::string& source, long long byte) {
  if (byte < 0 || byte > static_cast<long long>(source.size())) {
    return "chat template";
  }
  const auto at = static_cast<std::size_t>(byte);
  const auto line = std::count(source.begin(), source.begin() + byte, '\n') + 1;
  const std::size_t before = at == 0 ? std::string::npos : source.rfind('\n', at - 1);
  const std::size_t begin =
      std::max(before == std::string::npos ? 0 : before + 1, at < 40 ? 0 : at - 40);
  std::string excerpt = source.substr(begin, std::min(source.find('\n', at), at + 40) - begin);
  std::replace_if(
      excerpt.begin(), excerpt.end(),
      [](char c) { return std::iscntrl(static_cast<unsigned char>(c)) != 0; }, ' ');
  return fmt::format("chat template, line {}: {}", line, excerpt);
}

}  // namespace kvscope
