#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "calibration_text.h"
#include "command.h"
#include "console.h"
#include "evaluation.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/calibration_file.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model;
  std::string plan;
  std::vector<std::string> methods;
  std::vector<std::string> keeps;
  std::string calibration;
  ComputeOptions compute;
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
void need_calibration(const Options& options, const EvaluationPlan& plan,
                      const std::shared_ptr<const Model>& model) {
  if (std::filesystem::exists(options.calibration)) {
    return;
  }
  KVSCOPE_CHECK(
      !plan.calibration.empty(), ErrorCode::usage, "the plan names no text to calibrate on",
      options.plan,
      "add \"calibration\": [FILES] to it, run `kvscope calibrate`, or name methods with -m");
  const CalibrationText text = read_calibration_text(plan.calibration, model->file());
  write_calibration(options.calibration, calibrate_on(model, text, 0), false);
  say(options.calibration + ": made");
}

std::string formatted(const std::string& model_name, const std::vector<EvaluatedRun>& runs,
                      const Options& options) {
  if (options.common.json || options.format == "json") {
    return evaluation_json(model_name, runs)
               .dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
           "\n";
  }
  return options.format == "csv"        ? evaluation_csv(runs)
         : options.format == "markdown" ? evaluation_markdown(runs, options.any_memory)
                                        : evaluation_text(runs, options.any_memory);
}

/// What the command line leaves open is the plan's, then ours.
void take_from(const EvaluationPlan& plan, Options& options) {
  options.model = options.model.empty() ? plan.model : options.model;
  KVSCOPE_CHECK(!options.model.empty(), ErrorCode::usage, "the plan names no model", options.plan,
                "pass --model MODEL, or add \"model\" to it");
  options.methods = options.methods.empty() ? plan.methods : options.methods;
  if (options.keeps.empty()) {
    options.keeps = plan.keeps.empty() ? std::vector<std::string>{"0.1", "0.2", "0.4"} : plan.keeps;
  }
}

void run_evaluate(Options& options) {
  use_threads(options.common.threads);
  if (!options.output.empty()) {
    refuse_existing(options.output, options.force);
  }
  const EvaluationPlan plan = read_plan(options.plan);
  take_from(plan, options);
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
  const auto model = Model::load(file, runtime_options(options.common, options.compute));
  if (defaults) {
    need_calibration(options, plan, model);
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
  std::vector<EvaluatedRun> runs;
  std::vector<std::string> full_answers;
  for (const PlannedPrompt& prompt : plan.prompts) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<EvaluatedRun> found =
        evaluate_on(model, prompt, !options.plain, generation, live, full_answers);
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

void add_evaluate(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand("evaluate",
                                                 "Methods and budgets against the full cache on a "
                                                 "plan's prompts with planted facts: one table");
  command
      ->add_option("PLAN", options->plan,
                   "A JSON file of texts, facts and questions; data/evaluate/plan.json is one")
      ->required();
  command->add_option("--model", options->model,
                      "A .gguf file or a Hugging Face folder; default: the plan's");
  command->add_option(
      "-m,--method", options->methods,
      "Method text; repeatable; default: the plan's, or the five seed systems and three baselines");
  command
      ->add_option("--keep", options->keeps,
                   "Budget; repeatable, or a list; default: the plan's, or 0.1,0.2,0.4")
      ->delimiter(',');
  command->add_option(
      "--calibration", options->calibration,
      "NAME.calibration.h5 for the default methods; made from the plan's own texts if "
      "it is not there");
  command->add_option("--new-tokens", options->new_tokens, "Longest answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--cut-after", options->cut_after,
                   "prompt: the methods see the question; context: they do not")
      ->check(CLI::IsMember({"prompt", "context"}))
      ->capture_default_str();
  command->add_flag("--plain", options->plain, "Without the model's chat template");
  add_compute(*command, options->compute);
  command->add_option("--format", options->format, "text, markdown, json or csv (a row each run)")
      ->check(CLI::IsMember({"text", "markdown", "json", "csv"}))
      ->capture_default_str();
  command->add_flag("--any-memory", options->any_memory,
                    "Compare methods whose mean caches differ by more than 5 % too");
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output, "A file instead of stdout");
  add_common(*command, options->common);
  command->footer(
      "A plan is {\"format\": \"kvscope.plan\", \"prompts\": [...]} and may hold \"model\", "
      "\"methods\",\n"
      "\"keeps\" and \"calibration\" (texts). A prompt is {\"name\", \"file\", \"needle\", "
      "\"question\",\n"
      "\"answer\", \"depth\"}; with a depth of 0 to 1 the needle is planted there as a line of its "
      "own.\n"
      "Examples:\n"
      "  kvscope evaluate data/evaluate/plan.json --model model.gguf \\\n"
      "      --calibration model.calibration.h5 --format markdown\n"
      "  kvscope evaluate mine.json --model model.gguf -m snapkv -m laprox --keep 0.2 --json");
  command->callback([options] { run_evaluate(*options); });
}

}  // namespace kvscope::cli
