#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"

namespace kvscope::cli {
namespace {

/// kvscope-viewer beside this program; empty if there is none.
std::string viewer_path() {
  std::error_code failure;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failure);
  const auto viewer = self.parent_path() / "kvscope-viewer";
  return !failure && std::filesystem::exists(viewer, failure) ? viewer.string() : std::string();
}

void run_view(const std::vector<std::string>& arguments) {
  const std::string viewer = viewer_path();
  KVSCOPE_CHECK(!viewer.empty(), ErrorCode::unsupported, "kvscope-viewer was not built",
                "beside the program kvscope",
                "install GLFW, EGL and the imgui-bundle sources, then `./run build`");
  std::vector<char*> argv;
  argv.push_back(const_cast<char*>(viewer.c_str()));
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  execv(viewer.c_str(), argv.data());
  throw Error(ErrorCode::io, std::string("cannot start the viewer: ") + std::strerror(errno),
              viewer);
}

}  // namespace

void add_view(Program program) {
  CLI::App* command = program.app.add_subcommand(
      "view", "Open the viewer, or render it to PNG without a display (--render)");
  command->prefix_command();
  command->allow_extras();
  command->set_help_flag();
  command->footer(
      "Everything after 'view' goes to kvscope-viewer; `kvscope view --help` shows its options.\n"
      "Examples:\n"
      "  kvscope view run.capture.h5 decisions/*.decision.h5 model.spectrum.h5\n"
      "  kvscope view run.capture.h5 decisions/*.decision.h5 --render picture.png --size "
      "1600x1000\n"
      "  kvscope view run.capture.h5 decisions/*.decision.h5 answers/answers.json --find 7421\n"
      "  kvscope view run.capture.h5 decisions/*.decision.h5 --checks");
  command->callback([command] { run_view(command->remaining()); });
}

}  // namespace kvscope::cli
