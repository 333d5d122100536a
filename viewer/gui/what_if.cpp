#include "what_if.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/storage/decision_file.h"

namespace kvscope::gui {
namespace {

std::string program_beside() {
  std::error_code failure;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failure);
  const auto program = self.parent_path() / "kvscope";
  KVSCOPE_CHECK(!failure && std::filesystem::exists(program, failure), ErrorCode::unsupported,
                "the program kvscope is not beside the viewer", program.string(),
                "build it: it is what decides");
  return program.string();
}

std::string new_folder() {
  std::string folder = (std::filesystem::temp_directory_path() / "kvscope-trial-XXXXXX").string();
  KVSCOPE_CHECK(mkdtemp(folder.data()) != nullptr, ErrorCode::io,
                "no folder for the trial can be made", folder, "check TMPDIR");
  return folder;
}

std::string decision_path(const std::string& folder) {
  return folder + "/trial.decision.h5";
}

pid_t spawn(std::vector<std::string> arguments, const std::string& messages) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, messages.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  std::vector<char*> argv;
  for (std::string& argument : arguments) {
    argv.push_back(argument.data());
  }
  argv.push_back(nullptr);
  pid_t child = -1;
  const int failure = posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  KVSCOPE_CHECK(failure == 0, ErrorCode::io, "kvscope cannot be started", arguments[0]);
  return child;
}

std::string what_it_said(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str().empty() ? "it said nothing" : text.str();
}

}  // namespace

DecideJob::DecideJob(const std::string& capture, const std::string& method,
                     const std::string& keep) {
  KVSCOPE_CHECK(!capture.empty(), ErrorCode::usage, "no capture is open");
  const std::string program = program_beside();
  folder_ = new_folder();
  child_ = spawn({program, "decide", capture, "-m", method, "--keep", keep, "--scores", "-o",
                  decision_path(folder_)},
                 folder_ + "/messages");
}

DecideJob::~DecideJob() {
  if (child_ > 0) {
    kill(child_, SIGTERM);
    waitpid(child_, nullptr, 0);
  }
  if (loading_.valid()) {
    loading_.wait();
  }
  std::error_code failure;
  std::filesystem::remove_all(folder_, failure);
}

std::optional<Decision> DecideJob::poll() {
  if (child_ > 0) {
    int status = 0;
    if (waitpid(child_, &status, WNOHANG) != child_) {
      return std::nullopt;
    }
    child_ = -1;
    KVSCOPE_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, ErrorCode::failed,
                  what_it_said(folder_ + "/messages"), "kvscope decide");
    loading_ = std::async(std::launch::async,
                          [path = decision_path(folder_)] { return read_decision(path); });
  }
  if (loading_.valid() && loading_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    return loading_.get();
  }
  return std::nullopt;
}

double DecideJob::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

}  // namespace kvscope::gui
