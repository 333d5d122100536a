#include <fmt/format.h>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/report/formats.h"
#include "kvscope/spectral/analyze.h"
#include "kvscope/storage/spectrum_file.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model;
  std::string output;
  bool force = false;
  SpectralOptions spectral;
};

void run_spectral(Options& options) {
  KVSCOPE_CHECK(options.common.device == "cpu", ErrorCode::unsupported,
                "spectra are computed on the CPU", "--device", "leave --device out");
  refuse_existing(options.output, options.force);
  const auto model = open_model(options.model);
  const auto start = std::chrono::steady_clock::now();
  Progress progress("spectral", "layers");
  options.spectral.threads = options.common.threads;
  options.spectral.progress = [&](int done, int total) {
    KVSCOPE_CHECK(!stop_requested().load(), ErrorCode::interrupted, "the analysis was stopped",
                  fmt::format("after layer {}", done), "start it again; nothing was written");
    progress.update(done, total);
  };
  const Spectrum spectrum = analyze_weights(*model, options.spectral);
  write_spectrum(options.output, spectrum, options.force);
  if (options.common.json) {
    print(to_json(spectrum));
    return;
  }
  print(to_text(spectrum));
  say(fmt::format("{}: {:.1f} s", options.output, seconds_since(start)));
}

}  // namespace

void add_spectral(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      program.app.add_subcommand("spectral", "Eigen-analysis of the attention projections");
  command->add_option("MODEL", options->model, "A .gguf file")->required();
  command->add_option("--seed", options->spectral.seed, "Of sampled nulls")->capture_default_str();
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output, "NAME.spectrum.h5")->required();
  add_common(*command, options->common);
  command->footer("Examples:\n  kvscope spectral model.gguf -o model.spectrum.h5");
  command->callback([options] { run_spectral(*options); });
}

}  // namespace kvscope::cli
