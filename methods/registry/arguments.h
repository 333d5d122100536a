#pragma once

#include <map>
#include <string>

#include "kvscope/methods/method.h"

namespace kvscope::detail {

/// Checked values of one piece's parameters, defaults filled in.
class Arguments {
 public:
  /// Checks `given` against `info` and fills in defaults. Throws Error{usage} naming the parameter
  /// with the nearest name, or the value with its range.
  Arguments(const PieceInfo& info, const std::map<std::string, std::string>& given);

  int integer(const std::string& name) const;
  double real(const std::string& name) const;
  bool boolean(const std::string& name) const;
  const std::string& text(const std::string& name) const;

  /// "name:parameter=value,..." with the parameters that differ from their defaults or are always
  /// written, in declared order.
  std::string canonical() const;
  const PieceInfo& info() const { return *info_; }

 private:
  const PieceInfo* info_;
  std::map<std::string, std::string> values_;
};

/// Short ways to declare a parameter.
ParameterInfo integer_parameter(std::string name, int value, std::string range, std::string unit,
                                std::string help);
ParameterInfo real_parameter(std::string name, double value, std::string range, std::string unit,
                             std::string help);
ParameterInfo boolean_parameter(std::string name, bool value, std::string help);
/// The first choice of "a|b|c" is the default.
ParameterInfo choice_parameter(std::string name, std::string choices, std::string help);
/// Any text without "|" and ",", such as the name of a file; empty by default means not given.
ParameterInfo text_parameter(std::string name, std::string value, std::string help);

/// The nearest of `names` as " (did you mean 'x'?)", or empty.
std::string did_you_mean(const std::string& name, const std::vector<std::string>& names);

}  // namespace kvscope::detail
