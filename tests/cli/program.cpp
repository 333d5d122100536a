#include "program.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>

#include "tiny_model.h"

namespace kvscope::test {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Result kvscope(const std::string& arguments, const std::filesystem::path& folder) {
  const std::filesystem::path errors = folder / ".stderr";
  const std::string command =
      fmt::format("cd '{}' && '{}/bin/kvscope' {} 2>'{}' </dev/null", folder.string(),
                  KVSCOPE_BINARY_DIR, arguments, errors.string());
  Result result;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 65536> buffer{};
  for (std::size_t got = 0; (got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    result.out.append(buffer.data(), got);
  }
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.err = read_file(errors);
  std::filesystem::remove(errors);
  return result;
}

Workspace::Workspace() {
  std::string name = (std::filesystem::temp_directory_path() / "kvscope-cli-XXXXXX").string();
  folder_ = mkdtemp(name.data());
  write_tiny_model((folder_ / "tiny.gguf").string());
  write("prompt.txt",
        "The keeper of the lamp wrote the code 7421 into the log. Then the rain came, and the sea "
        "rose, and nobody read the log again for a long, long time.");
}

Workspace::~Workspace() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string Workspace::read(const std::string& name) const {
  return read_file(folder_ / name);
}

void Workspace::write(const std::string& name, const std::string& bytes) const {
  std::ofstream(folder_ / name, std::ios::binary) << bytes;
}

std::vector<std::string> Workspace::names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace kvscope::test
