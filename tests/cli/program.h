#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace kvscope::test {

/// What a run of the program `kvscope` left behind.
struct Result {
  int status = -1;
  std::string out;
  std::string err;
  nlohmann::json json() const { return nlohmann::json::parse(out); }
};

/// Runs `kvscope ARGUMENTS` through the shell in `folder`.
Result kvscope(const std::string& arguments, const std::filesystem::path& folder);

/// A folder of its own, removed at the end, with a tiny model tiny.gguf and a prompt in it.
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  const std::filesystem::path& folder() const { return folder_; }
  Result operator()(const std::string& arguments) const { return kvscope(arguments, folder_); }
  std::string read(const std::string& name) const;
  void write(const std::string& name, const std::string& bytes) const;
  bool has(const std::string& name) const { return std::filesystem::exists(folder_ / name); }
  /// Names in the folder, sorted; to see that nothing half-written stays.
  std::vector<std::string> names() const;

 private:
  std::filesystem::path folder_;
};

}  // namespace kvscope::test
