#include <fmt/format.h>

#include <algorithm>

#include "calibration_text.h"
#include "command.h"
#include "console.h"
#include "kvscope/storage/calibration_file.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model;
  std::vector<std::string> files;
  ComputeOptions compute;
  std::string output;
  int window = 0;
  bool force = false;
};

/// Mean concentration of the heads: over all bands, and over the two strongest of each head.
struct Concentration {
  double bands = 0;
  double strongest = 0;
  double heads_above = 0;  ///< share of heads whose two strongest bands are above 0.95
};

Concentration concentration_of(const Calibration& calibration) {
  const CalibrationArray& length = *calibration.find("queries/mean_abs");
  const CalibrationArray& value = *calibration.find("queries/concentration");
  const auto bands = static_cast<std::size_t>(length.shape[2]);
  const std::size_t heads = bands == 0 ? 0 : value.values.size() / bands;
  Concentration mean;
  for (std::size_t head = 0; head < heads; ++head) {
    std::vector<std::size_t> order(bands);
    for (std::size_t band = 0; band < bands; ++band) {
      order[band] = head * bands + band;
      mean.bands += value.values[order[band]] / static_cast<double>(bands * heads);
    }
    const std::size_t top = std::min<std::size_t>(2, bands);
    std::partial_sort(
        order.begin(), order.begin() + static_cast<std::ptrdiff_t>(top), order.end(),
        [&](std::size_t a, std::size_t b) { return length.values[a] > length.values[b]; });
    double strongest = 0;
    for (std::size_t rank = 0; rank < top; ++rank) {
      strongest += value.values[order[rank]] / static_cast<double>(top);
    }
    mean.strongest += strongest / static_cast<double>(heads);
    mean.heads_above += strongest > 0.95 ? 1.0 / static_cast<double>(heads) : 0.0;
  }
  return mean;
}

void print_result(const Options& options, const Calibration& calibration, double seconds) {
  const Concentration mean = concentration_of(calibration);
  if (options.common.json) {
    print_json({{"file", options.output},
                {"model", calibration.model_name},
                {"model_hash", calibration.model_hash},
                {"corpus_hash", calibration.corpus_hash},
                {"tokens", calibration.tokens},
                {"window", calibration.window},
                {"layers", calibration.layers},
                {"query_heads", calibration.query_heads},
                {"mean_concentration", mean.bands},
                {"mean_concentration_two_strongest_bands", mean.strongest},
                {"share_of_heads_above_0.95", mean.heads_above},
                {"seconds", seconds}});
    return;
  }
  print(
      fmt::format("{}: {} tokens, {} layers x {} query heads, {:.1f} s\n"
                  "concentration of queries before rotation: {:.3f} over all bands, {:.3f} over "
                  "the two strongest "
                  "of each\nhead ({:.0f}% of heads above 0.95 there)",
                  options.output, calibration.tokens, calibration.layers, calibration.query_heads,
                  seconds, mean.bands, mean.strongest, 100 * mean.heads_above));
}

void run_calibrate(const Options& options) {
  use_threads(options.common.threads);
  refuse_existing(options.output, options.force);
  const auto file = open_model(options.model);
  const CalibrationText text = read_calibration_text(options.files, *file);
  const auto model = Model::load(file, runtime_options(options.common, options.compute));
  const auto start = std::chrono::steady_clock::now();
  const Calibration calibration = calibrate_on(model, text, options.window);
  write_calibration(options.output, calibration, options.force);
  print_result(options, calibration, seconds_since(start));
}

}  // namespace

void add_calibrate(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand(
      "calibrate", "Measure a model's queries on a text, for methods that need it (TriAttention)");
  command->add_option("MODEL", options->model, "A .gguf file or a Hugging Face folder")->required();
  command->add_option("-f,--file", options->files, "A UTF-8 text of the corpus; repeatable")
      ->required();
  command
      ->add_option("--window", options->window,
                   "Longest piece read at once, in tokens; 0 = 4096 or the model's context")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  add_compute(*command, options->compute);
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output, "NAME.calibration.h5")->required();
  add_common(*command, options->common);
  command->footer(
      "Examples:\n"
      "  kvscope calibrate model.gguf -f corpus.txt -o model.calibration.h5\n"
      "  kvscope decide run.capture.h5 -m \"triattention:calibration=model.calibration.h5,\\\n"
      "      prompt=evictable,first_cut=prefill_end\" --keep 0.2 -o decisions");
  command->callback([options] { run_calibrate(*options); });
}

}  // namespace kvscope::cli
