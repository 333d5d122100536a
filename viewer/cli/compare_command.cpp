#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "calibration_text.h"
#include "command.h"
#include "comparison.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/calibration_file.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model;
  std::string prompts;
  std::vector<std::string> methods;
  std::vector<std::string> keeps = {"0.1", "0.2", "0.4"};
  std::string calibration;
  std::string dtype = "float32";
  std::string cut_after = "prompt";
  std::string format = "text";
  std::string output;
  int new_tokens = 32;
  bool plain = false;
  bool any_memory = false;
  bool force = false;
};

/// The five seed systems and three baselines. Reference timing cannot meet small budgets on short
/// prompts (asymkv, kvslimmer) or never cuts the prompt (triattention, alpha): options of ours do.
std::vector<std::string> seed_systems(const std::string& calibration) {
  const std::string by_calibration =
      ":calibration=" + calibration + ",prompt=evictable,first_cut=prefill_end";
  return {"asymkv:timing=budget",
          "kvslimmer:timing=budget",
          "laprox",
          "triattention" + by_calibration,
          "alpha" + by_calibration,
          "snapkv",
          "observed_attention",
          "streaming_llm"};
}

/// Makes the calibration that the default methods read, unless it is there.
void need_calibration(const Options& options, const PromptSet& set,
                      const std::shared_ptr<const Model>& model) {
  if (std::filesystem::exists(options.calibration)) {
    return;
  }
  KVSCOPE_CHECK(
      !set.calibration.empty(), ErrorCode::usage,
      "the set of prompts names no text to calibrate on", options.prompts,
      "add \"calibration\": [FILES] to it, run `kvscope calibrate`, or name methods with -m");
  const CalibrationText text = read_calibration_text(set.calibration, model->file());
  write_calibration(options.calibration, calibrate_on(model, text, 0), false);
  say(options.calibration + ": made");
}

std::string formatted(const std::string& model_name, const std::vector<ComparedRun>& runs,
                      const Options& options) {
  if (options.common.json || options.format == "json") {
    return comparison_json(model_name, runs)
               .dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
           "\n";
  }
  return options.format == "csv"        ? comparison_csv(runs)
         : options.format == "markdown" ? comparison_markdown(runs, options.any_memory)
                                        : comparison_text(runs, options.any_memory);
}

void run_compare(Options& options) {
  use_threads(options.common.threads);
  if (!options.output.empty()) {
    refuse_existing(options.output, options.force);
  }
  const PromptSet set = read_prompt_set(options.prompts);
  std::vector<Budget> budgets;
  for (const std::string& keep : options.keeps) {
    budgets.push_back(Budget::parse(keep));
  }
  const auto file = open_model(options.model);
  const bool defaults = options.methods.empty();
  KVSCOPE_CHECK(!defaults || !options.calibration.empty(), ErrorCode::usage,
                "triattention and alpha read a calibration", "--calibration",
                "name a file (it is made if it is not there), or choose methods with -m");
  std::vector<Method> methods;
  const auto parse = [&methods](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      for (Method& method : parse_methods(text)) {
        methods.push_back(std::move(method));
      }
    }
  };
  parse(options.methods);  // what is wrong there is found before the model is read
  const auto model = Model::load(file, runtime_options(options.common, options.dtype));
  if (defaults) {
    need_calibration(options, set, model);
    parse(seed_systems(options.calibration));
  }
  GenerationOptions generation;
  generation.methods = methods;
  generation.budgets = budgets;
  generation.new_tokens = options.new_tokens;
  generation.tokenizer = file->tokenizer();
  generation.output_error = true;
  generation.cut_after_context = options.cut_after == "context";
  LiveRunOptions live;
  live.stop = &stop_requested();
  std::vector<ComparedRun> runs;
  std::vector<std::string> full_answers;
  for (const ComparedPrompt& prompt : set.prompts) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<ComparedRun> found =
        compare_on(model, prompt, !options.plain, generation, live, full_answers);
    say(fmt::format("{}: {} tokens, {} runs, {:.0f} s; the full cache answers: {}", prompt.name,
                    found.front().prompt_tokens, found.size(), seconds_since(start),
                    nlohmann::json(full_answers.back())
                        .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
    runs.insert(runs.end(), found.begin(), found.end());
  }
  const std::string text = formatted(file->config().name, runs, options);
  if (options.output.empty()) {
    print(text);
  } else {
    write_text_file(options.output, text, options.force);
    say(options.output);
  }
}

}  // namespace

void add_compare(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand(
      "compare",
      "Methods against the full cache on several prompts with a planted fact: one table");
  command->add_option("MODEL", options->model, "A .gguf file or a Hugging Face folder")->required();
  command
      ->add_option("--prompts", options->prompts,
                   "A JSON file of texts, facts and questions; data/compare/prompts.json is one")
      ->required();
  command->add_option(
      "-m,--method", options->methods,
      "Method text; repeatable; default: the five seed systems and three baselines");
  command->add_option("--keep", options->keeps, "Budget; repeatable, or a list: 0.1,0.2,0.4")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option(
      "--calibration", options->calibration,
      "NAME.calibration.h5 for the default methods; made from the set's own texts if "
      "it is not there");
  command->add_option("--new-tokens", options->new_tokens, "Longest answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--cut-after", options->cut_after,
                   "prompt: the methods see the question; context: they do not")
      ->check(CLI::IsMember({"prompt", "context"}))
      ->capture_default_str();
  command->add_flag("--plain", options->plain, "Without the model's chat form");
  command->add_option("--dtype", options->dtype, "Of computation")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  command->add_option("--format", options->format, "text, markdown, json or csv (a row each run)")
      ->check(CLI::IsMember({"text", "markdown", "json", "csv"}))
      ->capture_default_str();
  command->add_flag("--any-memory", options->any_memory,
                    "Compare methods whose mean caches differ by more than 5 % too");
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output, "A file instead of stdout");
  add_common(*command, options->common);
  command->footer(
      "A prompt of the set is {\"name\", \"file\", \"needle\", \"question\", \"answer\", "
      "\"depth\"}; with a\n"
      "depth of 0 to 1 the needle is planted there as a line of its own.\n"
      "Examples:\n"
      "  kvscope compare model.gguf --prompts data/compare/prompts.json \\\n"
      "      --calibration model.calibration.h5 --format markdown\n"
      "  kvscope compare model.gguf --prompts mine.json -m snapkv -m laprox --keep 0.2 --json");
  command->callback([options] { run_compare(*options); });
}

}  // namespace kvscope::cli
