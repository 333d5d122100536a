#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <thread>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/report/formats.h"
#include "kvscope/spectral/analyze.h"
#include "kvscope/spectral/claims.h"
#include "kvscope/spectral/homogeneity.h"
#include "kvscope/spectral/merging.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/isolated.h"
#include "kvscope/storage/spectrum_file.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model;
  std::string output;
  std::string layers;
  std::string tokens;
  std::string corpus;
  std::vector<std::string> decisions;
  std::string format = "text";
  bool force = false;
  bool restart = false;
  bool strict = false;
  bool no_bias = false;
  bool no_heads = false;
  bool no_products = false;
  bool no_post_rope = false;
  SpectralOptions spectral;
  HomogeneityOptions homogeneity;
};

std::string stem_of(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  for (const char* ending : {".capture.h5", ".decision.h5", ".h5"}) {
    if (name.ends_with(ending)) {
      return name.substr(0, name.size() - std::string(ending).size());
    }
  }
  return name;
}

/// A progress function that stops the analysis when the user asks.
std::function<void(int, int)> watch(Progress& progress, const std::string& fix) {
  return [&progress, fix](int done, int total) {
    KVSCOPE_CHECK(!stop_requested().load(), ErrorCode::interrupted, "the analysis was stopped",
                  fmt::format("after {} of {} layers", done, total), fix);
    progress.update(done, total);
  };
}

void run_tokens(const Options& options, const ModelFile& model, const CaptureReader& capture,
                Spectrum& spectrum) {
  Progress progress("tokens", "layers");
  HomogeneityOptions homogeneity = options.homogeneity;
  homogeneity.corpus = options.corpus.empty() ? stem_of(options.tokens) : options.corpus;
  homogeneity.seed = options.spectral.seed;
  homogeneity.threads = options.spectral.threads;
  homogeneity.post_rope = !options.no_post_rope;
  homogeneity.progress = watch(progress, "start it again; finished layers of weights are kept");
  add_homogeneity(model, capture, homogeneity, spectrum);
  for (const std::string& path : options.decisions) {
    add_merge_loss(capture, read_decision(path), homogeneity.corpus, stem_of(path), spectrum);
  }
}

Spectrum analyse(Options& options, const ModelFile& model) {
  std::optional<CaptureReader> capture;
  if (!options.tokens.empty()) {  // before the long part: a wrong file is found at once
    capture.emplace(options.tokens);
    KVSCOPE_CHECK(
        capture->index().model_hash == model.hash(), ErrorCode::usage,
        fmt::format("the capture is of another model ('{}')", capture->index().model_name),
        options.tokens, "capture with this model, or name the model it was made with");
  }
  Spectrum spectrum;
  {
    Progress progress("spectral", "layers");
    options.spectral.progress =
        watch(progress, "start it again; it goes on after the finished layers");
    spectrum = analyze_weights(model, options.spectral);
  }
  if (capture) {
    run_tokens(options, model, *capture, spectrum);
  }
  add_claims(options.spectral.seed, spectrum);
  return spectrum;
}

std::string formatted(const Spectrum& spectrum, const Options& options) {
  if (options.common.json || options.format == "json") {
    return to_json(spectrum);
  }
  return options.format == "csv"    ? to_csv(spectrum)
         : options.format == "html" ? to_html(spectrum)
                                    : to_text(spectrum);
}

/// Matrices that could not be analysed, for --strict; a projection that was not asked for is none.
int failed_matrices(const Spectrum& spectrum) {
  return static_cast<int>(
      std::count_if(spectrum.status.begin(), spectrum.status.end(), [](SpectrumStatus status) {
        return status != SpectrumStatus::ok && status != SpectrumStatus::skipped_by_user;
      }));
}

int run_spectral(Options& options) {
  KVSCOPE_CHECK(options.decisions.empty() || !options.tokens.empty(), ErrorCode::usage,
                "a decision needs the capture it was made on", "--decision",
                "add --tokens X.capture.h5");
  refuse_existing(options.output, options.force);
  std::vector<std::string> files = options.decisions;
  files.push_back(options.tokens);
  check_isolated(files);
  const auto model = open_model(options.model);
  const auto start = std::chrono::steady_clock::now();
  if (!options.layers.empty()) {
    options.spectral.layers = parse_list(options.layers, "--layers", model->config().shape.layers);
  }
  options.spectral.threads = options.common.threads > 0
                                 ? options.common.threads
                                 : static_cast<int>(std::thread::hardware_concurrency());
  options.spectral.device = options.common.device;
  options.spectral.with_bias = !options.no_bias;
  options.spectral.heads = !options.no_heads;
  options.spectral.products = !options.no_products;
  options.spectral.checkpoint = options.output + ".partial";
  if (options.restart) {
    std::filesystem::remove(options.spectral.checkpoint);
  }
  const Spectrum spectrum = analyse(options, *model);
  write_spectrum(options.output, spectrum, options.force);
  std::filesystem::remove(options.spectral.checkpoint);
  print(formatted(spectrum, options));
  say(fmt::format("{}: {:.1f} s", options.output, seconds_since(start)));
  const int failed = failed_matrices(spectrum);
  if (failed > 0) {
    say(fmt::format("{} of {} matrices could not be analysed", failed, spectrum.status.size()));
  }
  return options.strict && failed > 0 ? 3 : 0;
}

void add_weight_options(CLI::App& command, Options& options) {
  SpectralOptions& spectral = options.spectral;
  command.add_option("--layers", options.layers, "Layers to analyse, e.g. 0-3,7; default all");
  command.add_option("--projections", spectral.projections, "Of q, k, v, o; default all")
      ->delimiter(',');
  command.add_flag("--gain-folded", spectral.gain_folded,
                   "Fold the gains of the norms before and behind a projection into it");
  command.add_flag("--no-bias", options.no_bias, "Leave biases out");
  command.add_flag("--no-heads", options.no_heads, "Whole matrices only");
  command.add_flag("--no-products", options.no_products,
                   "Leave out QK, OV and the alignments between heads");
  command.add_flag("--ov-eigenvalues", spectral.ov_eigenvalues,
                   "Complex eigenvalues of W_O W_V by head, and how far it copies");
  command.add_flag("--vectors", spectral.vectors, "Store the left singular vectors of the heads");
  command.add_flag("--fits", spectral.fits, "Fit power laws and the Marchenko-Pastur bulk too");
  command.add_flag("--fast", spectral.fast,
                   "No eigensolver: norms, participation ratio, stable rank");
  command.add_option("--top", spectral.top, "With --fast: leading singular values, randomised")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command.add_option("--seed", spectral.seed, "Of everything sampled")->capture_default_str();
}

void add_token_options(CLI::App& command, Options& options) {
  command.add_option("--tokens", options.tokens,
                     "X.capture.h5 (profile qkv or full): adjacent tokens too");
  command.add_option("--corpus", options.corpus, "Name of its group; default: the file's");
  command
      .add_option("--skip-first", options.homogeneity.skip_first,
                  "Tokens left out at the start of the sequence")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--lags", options.homogeneity.lags,
                  "Distances of the mean cosine over tokens, e.g. 1,2,4,8")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_flag("--no-post-rope", options.no_post_rope, "Only before RoPE");
  command.add_option("--decision", options.decisions,
                     "D.decision.h5 on that capture: predicted and actual merge loss");
}

}  // namespace

void add_spectral(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand(
      "spectral", "Eigen-analysis of the attention projections, and of captured tokens");
  command->add_option("MODEL", options->model, "A .gguf file or a Hugging Face folder")->required();
  add_weight_options(*command, *options);
  add_token_options(*command, *options);
  command->add_option("--format", options->format, "text, json, csv or html")
      ->check(CLI::IsMember({"text", "json", "csv", "html"}))
      ->capture_default_str();
  command->add_flag("--strict", options->strict, "Exit with 3 if a matrix could not be analysed");
  command->add_flag("--restart", options->restart, "Forget the finished layers of a stopped run");
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output, "NAME.spectrum.h5")->required();
  add_common(*command, options->common);
  command->footer(
      "A stopped run keeps its finished layers in OUTPUT.partial and goes on from there.\n"
      "Examples:\n"
      "  kvscope spectral model.gguf -o model.spectrum.h5\n"
      "  kvscope spectral model.gguf --tokens run.capture.h5 -o run.spectrum.h5\n"
      "  kvscope spectral model.gguf --format html -o model.spectrum.h5 > model.html");
  command->callback([options, program] { program.status = run_spectral(*options); });
}

}  // namespace kvscope::cli
