#include "registry/arguments.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "kvscope/core/error.h"
#include "registry/text.h"

namespace kvscope::detail {
namespace {

template <typename Number>
Number number(const ParameterInfo& parameter, const std::string& piece, const std::string& value,
              const char* kind) {
  Number result{};
  const char* end = value.data() + value.size();
  const auto parsed = std::from_chars(value.data(), end, result);
  KVSCOPE_CHECK(
      parsed.ec == std::errc() && parsed.ptr == end && !value.empty(), ErrorCode::usage,
      fmt::format("parameter '{}' of '{}' is not {}: '{}'", parameter.name, piece, kind, value),
      "method text", fmt::format("give {} in {}", kind, parameter.range));
  return result;
}

/// "1..", "0..1", "1.., odd": the closed interval of a range text.
std::pair<double, double> interval(const std::string& range) {
  const std::size_t dots = range.find("..");
  std::pair<double, double> result{-std::numeric_limits<double>::infinity(),
                                   std::numeric_limits<double>::infinity()};
  if (dots == std::string::npos) {
    return result;
  }
  const std::string low = range.substr(0, dots);
  const std::string high = range.substr(dots + 2, range.find(',', dots) - dots - 2);
  std::from_chars(low.data(), low.data() + low.size(), result.first);
  std::from_chars(high.data(), high.data() + high.size(), result.second);
  return result;
}

void check_range(const ParameterInfo& parameter, const std::string& piece, double value) {
  const auto [low, high] = interval(parameter.range);
  const bool odd = parameter.range.ends_with("odd");
  KVSCOPE_CHECK(
      value >= low && value <= high && (!odd || std::fmod(value, 2.0) == 1.0), ErrorCode::usage,
      fmt::format("parameter '{}' of '{}' is out of range: {}", parameter.name, piece, value),
      "method text", fmt::format("give a value in {}", parameter.range));
}

std::string check_choice(const ParameterInfo& parameter, const std::string& piece,
                         const std::string& value) {
  const std::vector<std::string> choices = split(parameter.range, '|');
  for (const std::string& choice : choices) {
    if (choice == value) {
      return value;
    }
  }
  throw Error(ErrorCode::usage,
              fmt::format("parameter '{}' of '{}' has no choice '{}'{}", parameter.name, piece,
                          value, did_you_mean(value, choices)),
              "method text",
              fmt::format("choose {}", fmt::join(choices, choices.size() > 2 ? ", " : " or ")));
}

/// The checked value in its canonical spelling.
std::string canonical_value(const ParameterInfo& parameter, const std::string& piece,
                            const std::string& value) {
  switch (parameter.type) {
    case ParameterInfo::Type::integer: {
      const int parsed = number<int>(parameter, piece, value, "an integer");
      check_range(parameter, piece, parsed);
      return fmt::format("{}", parsed);
    }
    case ParameterInfo::Type::real: {
      const double parsed = number<double>(parameter, piece, value, "a number");
      KVSCOPE_CHECK(std::isfinite(parsed), ErrorCode::usage,
                    fmt::format("parameter '{}' of '{}' is not finite", parameter.name, piece),
                    "method text", fmt::format("give a value in {}", parameter.range));
      check_range(parameter, piece, parsed);
      return fmt::format("{}", parsed);
    }
    case ParameterInfo::Type::boolean:
    case ParameterInfo::Type::choice:
      return check_choice(parameter, piece, value);
    case ParameterInfo::Type::list:
    case ParameterInfo::Type::text:
      break;
  }
  return value;
}

const ParameterInfo& find_parameter(const PieceInfo& info, const std::string& name) {
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : info.parameters) {
    if (parameter.name == name) {
      return parameter;
    }
    names.push_back(parameter.name);
  }
  throw Error(
      ErrorCode::usage,
      fmt::format("'{}' has no parameter '{}'{}", info.name, name, did_you_mean(name, names)),
      "method text",
      names.empty() ? fmt::format("'{}' takes no parameters", info.name)
                    : fmt::format("parameters of '{}': {}", info.name, fmt::join(names, ", ")));
}

}  // namespace

Arguments::Arguments(const PieceInfo& info, const std::map<std::string, std::string>& given)
    : info_(&info) {
  for (const ParameterInfo& parameter : info.parameters) {
    values_[parameter.name] = parameter.default_value;
  }
  for (const auto& [name, value] : given) {
    values_[name] = canonical_value(find_parameter(info, name), info.name, value);
  }
}

int Arguments::integer(const std::string& name) const {
  const std::string& value = values_.at(name);
  int result = 0;
  std::from_chars(value.data(), value.data() + value.size(), result);
  return result;
}

double Arguments::real(const std::string& name) const {
  const std::string& value = values_.at(name);
  double result = 0;
  std::from_chars(value.data(), value.data() + value.size(), result);
  return result;
}

bool Arguments::boolean(const std::string& name) const {
  return values_.at(name) == "true";
}

const std::string& Arguments::text(const std::string& name) const {
  return values_.at(name);
}

std::string Arguments::canonical() const {
  std::vector<std::string> items;
  for (const ParameterInfo& parameter : info_->parameters) {
    const std::string& value = values_.at(parameter.name);
    if (value != parameter.default_value || always_written(parameter.name)) {
      items.push_back(fmt::format("{}={}", parameter.name, value));
    }
  }
  return items.empty() ? info_->name : fmt::format("{}:{}", info_->name, fmt::join(items, ","));
}

ParameterInfo integer_parameter(std::string name, int value, std::string range, std::string unit,
                                std::string help) {
  return {std::move(name),          ParameterInfo::Type::integer,
          fmt::format("{}", value), std::move(range),
          std::move(unit),          std::move(help)};
}

ParameterInfo real_parameter(std::string name, double value, std::string range, std::string unit,
                             std::string help) {
  return {std::move(name),  ParameterInfo::Type::real, fmt::format("{}", value),
          std::move(range), std::move(unit),           std::move(help)};
}

ParameterInfo boolean_parameter(std::string name, bool value, std::string help) {
  return {std::move(name), ParameterInfo::Type::boolean, value ? "true" : "false", "true|false", "",
          std::move(help)};
}

ParameterInfo choice_parameter(std::string name, std::string choices, std::string help) {
  std::string first = choices.substr(0, choices.find('|'));
  return {std::move(name), ParameterInfo::Type::choice, std::move(first), std::move(choices), "",
          std::move(help)};
}

ParameterInfo text_parameter(std::string name, std::string value, std::string help) {
  return {std::move(name), ParameterInfo::Type::text, std::move(value), "", "", std::move(help)};
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& names) {
  const std::string nearest =
      names.empty() ? "" : nearest_name(name, names.data(), static_cast<int>(names.size()));
  return nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest);
}

}  // namespace kvscope::detail
