#include <fmt/format.h>

#include "command.h"
#include "console.h"
#include "isolated.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/capture_state.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/recover.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string file;
  std::string output;
  bool force = false;
};

void run_recover(const Options& options) {
  // First a read of the whole file where a crash of HDF5 does no harm; what it finds is not news.
  read_isolated(options.file, [&] {
    try {
      check_file(options.file);
    } catch (const Error&) {
      return 0;  // said below
    }
    return 0;
  });
  const Recovered recovered = recover_capture(options.file, options.output, options.force);
  if (options.common.json) {
    print_json({{"capture", options.output},
                {"steps", recovered.steps},
                {"layers", recovered.layers},
                {"layers_done", recovered.layers_done},
                {"state", recovered.state},
                {"state_name", state_name(recovered.state)}});
    return;
  }
  print(
      fmt::format("{}: {} of {} layers of the prompt, {} decode steps; the run ended in state '{}'",
                  options.output, recovered.layers_done, recovered.layers, recovered.steps,
                  state_name(recovered.state)));
}

}  // namespace

void add_recover(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand(
      "recover", "Copy what was committed of a live capture whose run was killed");
  command->add_option("FILE", options->file, "NAME.capture.h5, left as it is")->required();
  command->add_option("-o,--output", options->output, "Where the copy goes")->required();
  command->add_flag("--force", options->force, "Overwrite the output");
  add_common(*command, options->common);
  command->footer(
      "Examples:\n  kvscope recover run.capture.h5 -o saved.capture.h5\n"
      "Do not use `h5clear -s` on such a file: it can cut it to a stale end.");
  command->callback([options] { run_recover(*options); });
}

}  // namespace kvscope::cli
