#include "checked_json.h"

#include <fmt/format.h>

#include <cmath>
#include <unordered_set>
#include <vector>

#include "kvscope/core/error.h"
#include "mapped_file.h"

namespace kvscope {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& where, int deepest) {
  std::vector<std::unordered_set<std::string>> names;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    KVSCOPE_CHECK(depth <= deepest, ErrorCode::corrupt_file,
                  fmt::format("JSON is nested deeper than {} levels", deepest), where);
    if (event == json::parse_event_t::object_start) {
      names.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      names.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      KVSCOPE_CHECK(names.back().insert(name).second, ErrorCode::corrupt_file,
                    fmt::format("'{}' stands twice in one JSON object", name.substr(0, 80)), where);
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    // The parser's message repeats what it read, which need not be text.
    const auto* syntax = dynamic_cast<const json::parse_error*>(&error);
    throw Error(ErrorCode::corrupt_file, "this is not valid JSON",
                syntax != nullptr ? fmt::format("{}, byte {}", where, syntax->byte) : where,
                "download the file again");
  }
}

json read_json_file(const std::string& path, std::int64_t largest) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  KVSCOPE_CHECK(static_cast<std::int64_t>(bytes.size()) <= largest, ErrorCode::corrupt_file,
                fmt::format("{} bytes are too many for this file", bytes.size()), path);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  KVSCOPE_CHECK(!text.starts_with("version https://git-lfs"), ErrorCode::corrupt_file,
                "this is a Git LFS pointer, not the file", path, "download the real file");
  KVSCOPE_CHECK(!text.starts_with("<"), ErrorCode::corrupt_file, "this is a web page, not the file",
                path, "download the real file");
  return parse_json(text, path);
}

JsonFields::JsonFields(const json& object, std::string where, std::string prefix)
    : object_(&object), where_(std::move(where)), prefix_(std::move(prefix)) {
  KVSCOPE_CHECK(object.is_object(), ErrorCode::corrupt_file,
                fmt::format("{} is no JSON object", prefix_.empty() ? "the file" : prefix_),
                where_);
}

bool JsonFields::has(const std::string& name) const {
  const auto found = object_->find(name);
  return found != object_->end() && !found->is_null();
}

const json& JsonFields::value(const std::string& name) const {
  const auto found = object_->find(name);
  KVSCOPE_CHECK(found != object_->end() && !found->is_null(), ErrorCode::corrupt_file,
                fmt::format("field '{}' is missing", named(name)), where_);
  return *found;
}

void JsonFields::refuse(const std::string& name, const std::string& expected) const {
  throw Error(
      ErrorCode::corrupt_file,
      fmt::format("field '{}' is {}; {}", named(name),
                  value(name).dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 60),
                  expected),
      where_);
}

void JsonFields::unsupported(const std::string& name, const std::string& what) const {
  throw Error(
      ErrorCode::unsupported,
      fmt::format("field '{}' is {}; {}", named(name),
                  value(name).dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 60),
                  what),
      where_);
}

std::int64_t JsonFields::integer(const std::string& name, std::int64_t lowest,
                                 std::int64_t highest) const {
  const json& field = value(name);
  const bool whole = field.is_number_integer() &&
                     !(field.is_number_unsigned() && field.get<std::uint64_t>() > INT64_MAX);
  if (!whole || field.get<std::int64_t>() < lowest || field.get<std::int64_t>() > highest) {
    refuse(name, fmt::format("it must be a whole number from {} to {}", lowest, highest));
  }
  return field.get<std::int64_t>();
}

std::int64_t JsonFields::integer(const std::string& name, std::int64_t lowest, std::int64_t highest,
                                 std::int64_t otherwise) const {
  return has(name) ? integer(name, lowest, highest) : otherwise;
}

double JsonFields::number(const std::string& name, double otherwise) const {
  if (!has(name)) {
    return otherwise;
  }
  if (!value(name).is_number() || !std::isfinite(value(name).get<double>())) {
    refuse(name, "it must be a number");
  }
  return value(name).get<double>();
}

bool JsonFields::flag(const std::string& name, bool otherwise) const {
  if (!has(name)) {
    return otherwise;
  }
  if (!value(name).is_boolean()) {
    refuse(name, "it must be true or false");
  }
  return value(name).get<bool>();
}

std::string JsonFields::text(const std::string& name, const std::string& otherwise) const {
  if (!has(name)) {
    return otherwise;
  }
  if (!value(name).is_string()) {
    refuse(name, "it must be a text");
  }
  return value(name).get<std::string>();
}

JsonFields JsonFields::object(const std::string& name) const {
  return {value(name), where_, named(name) + "."};
}

const json& JsonFields::array(const std::string& name) const {
  if (!value(name).is_array()) {
    refuse(name, "it must be a list");
  }
  return value(name);
}

}  // namespace kvscope
