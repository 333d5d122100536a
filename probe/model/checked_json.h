#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace kvscope {

/// Parses JSON of a file that nobody vouches for: refuses duplicate names (parsers silently keep
/// one), nesting beyond `deepest`, invalid UTF-8 and anything after the value but white space.
/// Throws Error{corrupt_file} naming `where` and the byte.
nlohmann::json parse_json(std::string_view text, const std::string& where, int deepest = 64);

/// Reads and parses a whole file of at most `largest` bytes. Throws Error{io | corrupt_file}.
nlohmann::json read_json_file(const std::string& path, std::int64_t largest);

/// An object of a file with every access checked: errors name the file and the field.
class JsonFields {
 public:
  /// Throws Error{corrupt_file} unless `object` is one. `prefix` goes before names in messages.
  JsonFields(const nlohmann::json& object, std::string where, std::string prefix = {});

  /// There and not null.
  bool has(const std::string& name) const;
  /// There, perhaps null.
  bool contains(const std::string& name) const { return object_->contains(name); }
  std::int64_t integer(const std::string& name, std::int64_t lowest, std::int64_t highest) const;
  std::int64_t integer(const std::string& name, std::int64_t lowest, std::int64_t highest,
                       std::int64_t otherwise) const;
  double number(const std::string& name, double otherwise) const;
  bool flag(const std::string& name, bool otherwise) const;
  std::string text(const std::string& name, const std::string& otherwise) const;
  JsonFields object(const std::string& name) const;
  const nlohmann::json& array(const std::string& name) const;
  const nlohmann::json& value(const std::string& name) const;
  std::string named(const std::string& name) const { return prefix_ + name; }
  const std::string& where() const { return where_; }
  [[noreturn]] void refuse(const std::string& name, const std::string& expected) const;
  /// Error{unsupported}: "'NAME' is VALUE; what".
  [[noreturn]] void unsupported(const std::string& name, const std::string& what) const;

 private:
  const nlohmann::json* object_;
  std::string where_;
  std::string prefix_;
};

}  // namespace kvscope
