#pragma once

#include <string>
#include <vector>

#include "kvscope/core/decision.h"

namespace kvscope {

/// A parameter of one piece of a method, as its descriptor has it.
struct MethodParameter {
  int piece = 0;  ///< index of the piece in the method's text
  std::string piece_name;
  std::string name;
  std::string type;  ///< integer, real, boolean, choice, list
  std::string value;
  std::string default_value;
  std::string range;
  std::string unit;
  std::string help;
};

/// The parameters of a decision's method, piece by piece; empty for a descriptor that says nothing.
std::vector<MethodParameter> method_parameters(const Decision& decision);

/// The method's text with one parameter of one piece set: with_parameter("snapkv|adakv:floor=0.2",
/// 0, "window", "64") = "snapkv:window=64|adakv:floor=0.2".
std::string with_parameter(const std::string& method, int piece, const std::string& name,
                           const std::string& value);

}  // namespace kvscope
