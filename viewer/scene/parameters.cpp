#include "kvscope/scene/parameters.h"

#include <nlohmann/json.hpp>

namespace kvscope {
namespace {

using Json = nlohmann::json;

std::string text_of(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) {
    return "";
  }
  const Json& value = object[key];
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char character : text) {
    if (character == separator) {
      parts.emplace_back();
    } else {
      parts.back() += character;
    }
  }
  return parts;
}

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(' ');
  return first == std::string::npos ? ""
                                    : text.substr(first, text.find_last_not_of(' ') - first + 1);
}

/// One piece with a parameter set. Items without "=" continue the value before them.
std::string piece_with(const std::string& piece, const std::string& name,
                       const std::string& value) {
  const std::size_t colon = piece.find(':');
  std::string result = trimmed(piece.substr(0, colon));
  std::string separator = ":";
  bool set = false;
  bool skipping = false;
  const auto add = [&](const std::string& item) {
    result += separator + item;
    separator = ",";
  };
  for (const std::string& part : colon == std::string::npos ? std::vector<std::string>{}
                                                            : split(piece.substr(colon + 1), ',')) {
    const std::string item = trimmed(part);
    const std::size_t equals = item.find('=');
    if (equals == std::string::npos) {
      if (!skipping) {
        add(item);
      }
      continue;
    }
    skipping = item.substr(0, equals) == name;
    if (skipping && !set) {
      add(name + "=" + value);
      set = true;
    } else if (!skipping) {
      add(item);
    }
  }
  if (!set) {
    add(name + "=" + value);
  }
  return result;
}

}  // namespace

std::vector<MethodParameter> method_parameters(const Decision& decision) {
  std::vector<MethodParameter> list;
  const Json descriptor = Json::parse(decision.descriptor_json, nullptr, false);
  if (!descriptor.is_object() || !descriptor.contains("pieces") ||
      !descriptor["pieces"].is_array()) {
    return list;
  }
  int index = 0;
  for (const Json& piece : descriptor["pieces"]) {
    if (piece.is_object() && piece.contains("parameters") && piece["parameters"].is_array()) {
      for (const Json& parameter : piece["parameters"]) {
        list.push_back({index, text_of(piece, "name"), text_of(parameter, "name"),
                        text_of(parameter, "type"), text_of(parameter, "value"),
                        text_of(parameter, "default"), text_of(parameter, "range"),
                        text_of(parameter, "unit"), text_of(parameter, "help")});
      }
    }
    ++index;
  }
  return list;
}

std::string with_parameter(const std::string& method, int piece, const std::string& name,
                           const std::string& value) {
  std::vector<std::string> pieces = split(method, '|');
  std::string result;
  for (int index = 0; index < static_cast<int>(pieces.size()); ++index) {
    const std::string& text = pieces[static_cast<std::size_t>(index)];
    result += index > 0 ? "|" : "";
    result += index == piece ? piece_with(text, name, value) : trimmed(text);
  }
  return result;
}

}  // namespace kvscope
