#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <limits>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/extract.h"
#include "kvscope/storage/isolated.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string file;
  std::string output;
  std::string layers;
  std::string profile;
  bool force = false;
  ExtractRequest request;
};

std::int64_t size_of(const std::string& path) {
  std::error_code failure;
  const auto size = std::filesystem::file_size(path, failure);
  return failure ? 0 : static_cast<std::int64_t>(size);
}

void run_extract(Options& options) {
  refuse_existing(options.output, options.force);
  check_isolated({options.file});
  if (!options.layers.empty()) {
    const int layers = CaptureReader(options.file).index().shape.layers;
    options.request.layers = parse_list(options.layers, "--layers", layers);
  }
  if (!options.profile.empty()) {
    options.request.profile = parse_profile(options.profile);
  }
  const Extracted extracted =
      extract_capture(options.file, options.output, options.request, options.force);
  const CaptureIndex& index = extracted.index;
  if (options.common.json) {
    print_json({{"capture", options.output},
                {"bytes", size_of(options.output)},
                {"from_bytes", size_of(options.file)},
                {"profile", profile_name(index.profile)},
                {"layers", index.layers},
                {"prompt_tokens", index.prompt_tokens},
                {"steps", index.steps},
                {"capture_hash", index.capture_hash},
                {"left_out", extracted.left_out}});
    return;
  }
  print(fmt::format("{}: {} of {}; {} layers, {} prompt tokens, {} decode steps, profile {}",
                    options.output, bytes_text(size_of(options.output)),
                    bytes_text(size_of(options.file)), index.layers.size(), index.prompt_tokens,
                    index.steps, profile_name(index.profile)));
  if (!extracted.left_out.empty()) {
    print(fmt::format("left out: {}", fmt::join(extracted.left_out, ", ")));
  }
}

}  // namespace

void add_extract(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand(
      "extract", "Cut a capture down: some layers, the first tokens or steps, a smaller profile");
  command->add_option("FILE", options->file, "X.capture.h5, left as it is")->required();
  command->add_option("--layers", options->layers, "Layers to keep, e.g. 0-3,7; default all");
  command
      ->add_option("--tokens", options->request.prompt_tokens,
                   "Keep the first N prompt tokens and nothing that later ones have a part in")
      ->check(CLI::Range(1, std::numeric_limits<int>::max() / 2));
  command->add_option("--steps", options->request.steps, "Keep the first N decode steps")
      ->check(CLI::Range(0, 1 << 30));
  command->add_option("--profile", options->profile, "window | scores | qkv: store less");
  command
      ->add_option("--queries", options->request.stored_queries,
                   "Newest prompt queries kept where full becomes qkv")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output, "NAME.capture.h5")->required();
  add_common(*command, options->common);
  command->footer(
      "Examples:\n"
      "  kvscope extract run.capture.h5 --layers 0-3 --steps 8 -o small.capture.h5\n"
      "  kvscope extract run.capture.h5 --profile scores -o scores.capture.h5\n"
      "  kvscope extract run.capture.h5 --tokens 512 -o start.capture.h5\n"
      "A capture with fewer layers or steps takes the decisions of the whole one's prompt; one of "
      "a "
      "shorter\nprompt is another sequence.");
  command->callback([options] { run_extract(*options); });
}

}  // namespace kvscope::cli
