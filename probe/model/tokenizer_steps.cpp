#include "tokenizer_steps.h"

#include <fmt/format.h>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using nlohmann::json;

constexpr const char* space_mark = "\xE2\x96\x81";  // U+2581
constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

[[noreturn]] void refuse_step(const JsonFields& step, const char* stage) {
  throw Error(ErrorCode::unsupported,
              fmt::format("the {} '{}' is not supported", stage,
                          step.text("type", "without a type").substr(0, 40)),
              step.where(), "pass token ids with --token-ids");
}

std::string pattern_text(const JsonFields& step, const char* kind) {
  return step.has("pattern") && step.object("pattern").has(kind)
             ? step.object("pattern").text(kind, "")
             : std::string();
}

void read_normalizer(const JsonFields& step, TokenizerSteps& steps) {
  const std::string type = step.text("type", "");
  if (type == "Sequence") {
    for (const json& part : step.array("normalizers")) {
      read_normalizer(JsonFields(part, step.where(), "normalizer."), steps);
    }
  } else if (type == "NFC") {
    steps.nfc = true;
  } else if (type == "Prepend" && step.text("prepend", "") == space_mark) {
    steps.prefix = SpacePrefix::every;
  } else if (type == "Replace" && pattern_text(step, "String") == " " &&
             step.text("content", "") == space_mark) {
    steps.space_marks = true;
  } else {
    refuse_step(step, "normalizer");
  }
}

void read_metaspace(const JsonFields& step, TokenizerSteps& steps) {
  if (step.text("replacement", space_mark) != space_mark) {
    refuse_step(step, "pre-tokenizer");
  }
  const std::string scheme =
      step.text("prepend_scheme", step.flag("add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    step.unsupported("prepend_scheme", "known: always, first, never");
  }
  steps.prefix = scheme == "always"  ? SpacePrefix::marked
                 : scheme == "first" ? SpacePrefix::marked_first
                                     : SpacePrefix::none;
  steps.space_marks = true;
  steps.splits_words = step.flag("split", true);
}

void read_split(const JsonFields& step, TokenizerSteps& steps) {
  const std::string behavior = step.text("behavior", "");
  const bool invert = step.flag("invert", false);
  const std::string regex = pattern_text(step, "Regex");
  if (!regex.empty() &&
      ((behavior == "Isolated" && !invert) || (behavior == "Removed" && invert))) {
    steps.patterns.push_back(regex);
  } else if (pattern_text(step, "String") != " " || behavior != "MergedWithPrevious") {
    refuse_step(step, "pre-tokenizer");  // Gemma's: no space is left to split at
  }
}

void read_pre_tokenizer(const JsonFields& step, TokenizerSteps& steps) {
  const std::string type = step.text("type", "");
  if (type == "Sequence") {
    for (const json& part : step.array("pretokenizers")) {
      read_pre_tokenizer(JsonFields(part, step.where(), "pre_tokenizer."), steps);
    }
  } else if (type == "ByteLevel") {
    if (step.flag("add_prefix_space", false)) {
      step.unsupported("add_prefix_space", "only false is supported");
    }
    steps.bytes = true;
    if (step.flag("use_regex", true)) {
      steps.patterns.emplace_back(gpt2_pattern);
    }
  } else if (type == "Split") {
    read_split(step, steps);
  } else if (type == "Digits") {
    steps.patterns.emplace_back(step.flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
  } else if (type == "Punctuation" && step.text("behavior", "Isolated") == "Contiguous") {
    steps.patterns.emplace_back(R"([\p{P}$+<=>^~|`]+)");
  } else if (type == "Metaspace") {
    read_metaspace(step, steps);
  } else {
    refuse_step(step, "pre-tokenizer");
  }
}

}  // namespace

TokenizerSteps read_tokenizer_steps(const JsonFields& tokenizer) {
  TokenizerSteps steps;
  if (tokenizer.has("normalizer")) {
    read_normalizer(tokenizer.object("normalizer"), steps);
  }
  if (tokenizer.has("pre_tokenizer")) {
    read_pre_tokenizer(tokenizer.object("pre_tokenizer"), steps);
  }
  return steps;
}

}  // namespace kvscope
