#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace kvscope::cli {

/// What every subcommand takes.
struct CommonOptions {
  bool json = false;
  std::string device = "cpu";
  int threads = 0;  ///< 0 = all cores
};

/// Adds --json, --device and --threads to a subcommand.
void add_common(CLI::App& command, CommonOptions& options);

/// A subcommand registers itself on the application; its work runs as the CLI11 callback and throws
/// kvscope::Error. `status` is the exit status it wants besides 0 (3: checks failed).
struct Program {
  CLI::App& app;
  int& status;
};

void add_capture(Program program);
void add_decide(Program program);
void add_report(Program program);
void add_view(Program program);
void add_spectral(Program program);
void add_generate(Program program);
void add_evaluate(Program program);
void add_calibrate(Program program);
void add_methods(Program program);
void add_inspect(Program program);
void add_check(Program program);
void add_compare(Program program);
void add_recover(Program program);
void add_extract(Program program);

/// Sets the number of threads of LibTorch and OpenMP; 0 leaves all cores.
void use_threads(int threads);

}  // namespace kvscope::cli
