#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/runtime/model.h"

namespace {

constexpr const char* about =
    "kvscope: which tokens does each KV-cache compression method keep, merge or lose, in which "
    "layer,\n"
    "head and step, why, and what does it cost?";

constexpr const char* pipeline =
    "Typical order:\n"
    "  kvscope capture MODEL.gguf -f prompt.txt --chat --question \"...\" -o run.capture.h5\n"
    "  kvscope decide run.capture.h5 -m snapkv -m laprox --keep 0.2 -o decisions\n"
    "  kvscope report run.capture.h5 decisions/*.decision.h5 --find \"needle\"\n"
    "  kvscope view run.capture.h5 decisions/*.decision.h5\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 3 checks failed.";

/// CLI11 says only that a subcommand is required; this names the nearest one.
void refuse_unknown_subcommand(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') {
    return;
  }
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == argv[1]) {
      return;
    }
    names.push_back(command->get_name());
  }
  const std::string near =
      kvscope::nearest_name(argv[1], names.data(), static_cast<int>(names.size()));
  throw kvscope::Error(
      kvscope::ErrorCode::usage, fmt::format("unknown subcommand '{}'", argv[1]), "",
      near.empty() ? "kvscope --help lists them" : fmt::format("did you mean '{}'?", near));
}

}  // namespace

int main(int argc, char** argv) {
  kvscope::cli::install_console();
  kvscope::keep_freed_memory();
  CLI::App app{about};
  app.name("kvscope");
  app.footer(pipeline);
  app.set_version_flag("--version", KVSCOPE_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  int status = 0;
  const kvscope::cli::Program program{app, status};
  kvscope::cli::add_capture(program);
  kvscope::cli::add_decide(program);
  kvscope::cli::add_report(program);
  kvscope::cli::add_view(program);
  kvscope::cli::add_spectral(program);
  kvscope::cli::add_generate(program);
  kvscope::cli::add_evaluate(program);
  kvscope::cli::add_calibrate(program);
  kvscope::cli::add_methods(program);
  kvscope::cli::add_inspect(program);
  kvscope::cli::add_check(program);
  kvscope::cli::add_compare(program);
  kvscope::cli::add_recover(program);
  kvscope::cli::add_extract(program);
  try {
    refuse_unknown_subcommand(app, argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return 2;
  } catch (const kvscope::Error& error) {
    return kvscope::cli::report_error(error);
  } catch (const std::bad_alloc&) {
    fmt::print(
        stderr,
        "error: out of memory\nfix:   fewer layers, a smaller profile, or a shorter prompt\n");
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
  return status;
}
