#include "kvscope/capture/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <optional>
#include <string_view>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr const char* forms = "write all, 0-3,7, every:4 or last:64";

std::optional<int> number_of(std::string_view text) {
  int number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc() && end == text.data() + text.size() && number >= 0
             ? std::optional(number)
             : std::nullopt;
}

/// N of "NAME:N"; nothing if `text` starts otherwise. Throws if N is no number from 1.
std::optional<int> argument(std::string_view text, std::string_view name, const std::string& flag) {
  if (!text.starts_with(name)) {
    return std::nullopt;
  }
  const std::optional<int> number = number_of(text.substr(name.size()));
  KVSCOPE_CHECK(number && *number > 0, ErrorCode::usage, fmt::format("'{}' has no count", text),
                flag, forms);
  return number;
}

/// Appends "3" or "0-3".
void add_range(std::string_view item, int count, const std::string& flag,
               std::vector<int>& numbers) {
  const std::size_t dash = item.find('-');
  const std::optional<int> first = number_of(item.substr(0, dash));
  const std::optional<int> last =
      dash == std::string_view::npos ? first : number_of(item.substr(dash + 1));
  KVSCOPE_CHECK(first && last, ErrorCode::usage,
                fmt::format("'{}' is neither a number nor a range", item), flag, forms);
  KVSCOPE_CHECK(*first <= *last && *last < count, ErrorCode::usage,
                fmt::format("'{}' lies outside 0 to {}", item, count - 1), flag,
                "choose within the range");
  for (int number = *first; number <= *last; ++number) {
    numbers.push_back(number);
  }
}

std::string range_of_segment(const TokenTable& prompt, Segment segment, const std::string& text,
                             const std::string& flag) {
  std::string ranges;
  for (int token = 0; token < prompt.prompt_tokens; ++token) {
    int last = token;
    while (last < prompt.prompt_tokens &&
           prompt.segment[static_cast<std::size_t>(last)] == segment) {
      ++last;
    }
    if (last > token) {
      ranges += fmt::format("{}{}-{}", ranges.empty() ? "" : ",", token, last - 1);
      token = last;
    }
  }
  KVSCOPE_CHECK(!ranges.empty(), ErrorCode::usage,
                fmt::format("the prompt has no segment '{}'", text), flag,
                "give one with --question or --chat, or choose tokens by number");
  return ranges;
}

}  // namespace

std::vector<int> select_numbers(const std::string& text, int count, const std::string& flag) {
  std::vector<int> numbers;
  if (text == "all") {
    numbers.resize(static_cast<std::size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0);
  } else if (const auto stride = argument(text, "every:", flag)) {
    for (int number = 0; number < count; number += std::min(*stride, count)) {
      numbers.push_back(number);
    }
  } else if (const auto newest = argument(text, "last:", flag)) {
    for (int number = std::max(0, count - *newest); number < count; ++number) {
      numbers.push_back(number);
    }
  } else {
    std::string_view rest = text;
    while (true) {
      const std::size_t comma = rest.find(',');
      add_range(rest.substr(0, comma), count, flag, numbers);
      if (comma == std::string_view::npos) {
        break;
      }
      rest.remove_prefix(comma + 1);
    }
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  }
  return numbers;
}

std::string with_segments(const std::string& text, const TokenTable& prompt,
                          const std::string& flag) {
  if (text == "context") {
    return range_of_segment(prompt, Segment::context, text, flag);
  }
  if (text == "question") {
    return range_of_segment(prompt, Segment::question, text, flag);
  }
  return text == "template" ? range_of_segment(prompt, Segment::chat_template, text, flag) : text;
}

StepChoice select_steps(const std::string& text, int new_tokens) {
  StepChoice choice;
  if (text == "prefill" || text == "none") {
    choice.prompt = text == "prefill";
    return choice;
  }
  choice.decode = select_numbers(text == "decode" ? "all" : text, new_tokens + 1, "--steps");
  choice.prompt = text != "decode" && !choice.decode.empty() && choice.decode.front() == 0;
  std::erase(choice.decode, 0);
  return choice;
}

}  // namespace kvscope
