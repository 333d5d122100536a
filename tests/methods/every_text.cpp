#include "every_text.h"

#include <algorithm>
#include <map>
#include <sstream>

#include "kvscope/core/error.h"

namespace kvscope::testing {
namespace {

/// Values for parameters whose defaults fit real prompts only.
const std::map<std::string, std::string> small{{"window", "4"}, {"pool", "3"}};

std::string joined(const PieceInfo& info, const std::map<std::string, std::string>& values) {
  std::string text = info.name;
  char separator = ':';
  for (const auto& [name, value] : values) {
    text += separator + name + "=" + value;
    separator = ',';
  }
  return text;
}

/// The piece as it stands, and once for each value of each choice and switch.
std::vector<std::string> variants(const PieceInfo& info) {
  std::map<std::string, std::string> base;
  for (const ParameterInfo& parameter : info.parameters) {
    if (const auto found = small.find(parameter.name); found != small.end()) {
      base[found->first] = found->second;
    }
  }
  std::vector<std::string> texts{joined(info, base)};
  for (const ParameterInfo& parameter : info.parameters) {
    if (parameter.type != ParameterInfo::Type::boolean &&
        parameter.type != ParameterInfo::Type::choice) {
      continue;
    }
    std::stringstream choices(parameter.range);
    for (std::string choice; std::getline(choices, choice, '|');) {
      if (choice != parameter.default_value) {
        std::map<std::string, std::string> values = base;
        values[parameter.name] = choice;
        texts.push_back(joined(info, values));
      }
    }
  }
  return texts;
}

bool parses(const std::string& text) {
  try {
    return parse_methods(text).size() == 1;
  } catch (const Error&) {
    return false;
  }
}

std::vector<std::string> make_texts() {
  std::vector<std::string> texts;
  for (const PieceInfo& first : registry()) {
    if (first.kind != PieceInfo::Kind::scorer && first.kind != PieceInfo::Kind::preset) {
      continue;
    }
    const std::vector<std::string> alone = variants(first);
    texts.insert(texts.end(), alone.begin(), alone.end());
    for (const PieceInfo& later : registry()) {
      if (later.kind == PieceInfo::Kind::scorer || later.kind == PieceInfo::Kind::preset) {
        continue;
      }
      for (const std::string& piece : variants(later)) {
        if (parses(alone.front() + " | " + piece)) {
          texts.push_back(alone.front() + " | " + piece);
        }
      }
    }
  }
  return texts;
}

}  // namespace

const std::vector<std::string>& every_text() {
  static const std::vector<std::string> texts = make_texts();
  return texts;
}

double combined(const PieceInfo& info, const std::vector<double>& terms) {
  std::stringstream words(info.combine);
  double sum = 0;
  double product = 1;
  for (std::string word; words >> word;) {
    if (word == "+") {
      sum += product;
      product = 1;
    } else if (word != "*") {
      if (word.starts_with("-")) {
        product = -product;
        word.erase(0, 1);
      }
      const auto named = [&](const TermInfo& term) { return term.name == word; };
      const auto found = std::find_if(info.terms.begin(), info.terms.end(), named);
      KVSCOPE_CHECK(found != info.terms.end(), ErrorCode::failed,
                    "'" + info.name + "' combines an unknown term '" + word + "'", "registry",
                    "name a term of the piece");
      product *= terms[static_cast<std::size_t>(found - info.terms.begin())];
    }
  }
  return sum + product;
}

}  // namespace kvscope::testing
