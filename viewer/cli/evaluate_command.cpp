#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "calibration_text.h"
#include "command.h"
#include "console.h"
#include "evaluation.h"
#include "evaluation_folder.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/calibration_file.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::vector<std::string> models;
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

  bool in_folder() const { return !output.empty() && names_a_folder(output); }
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

/// A model of the plan; its weights are read when a cell needs them.
class PlannedModel {
 public:
  PlannedModel(std::string path, const Options& options)
      : path_(std::move(path)), options_(options), file_(open_model(path_)) {
    name = file_->config().name;
  }

  const std::string& path() const { return path_; }
  const ModelFile& file() const { return *file_; }
  const std::shared_ptr<const Model>& loaded() {
    if (!model_) {
      model_ = Model::load(file_, runtime_options(options_.common, options_.compute));
    }
    return model_;
  }

  void release() { model_.reset(); }  ///< frees the weights

  std::string name;  ///< in tables

 private:
  std::string path_;
  const Options& options_;
  std::shared_ptr<const ModelFile> file_;
  std::shared_ptr<const Model> model_;
};

/// Names of models in tables; two of one name are told apart by their paths.
std::vector<PlannedModel> open_models(const Options& options) {
  std::vector<PlannedModel> models;
  std::map<std::string, int> named;
  for (const std::string& path : options.models) {
    models.emplace_back(path, options);
    ++named[models.back().name];
  }
  for (PlannedModel& model : models) {
    model.name = named[model.name] > 1 ? model.path() : model.name;
  }
  return models;
}

/// Makes the calibration that the default methods read, unless it is there.
void need_calibration(const std::string& path, const std::string& plan_path,
                      const EvaluationPlan& plan, PlannedModel& model) {
  if (std::filesystem::exists(path)) {
    return;
  }
  KVSCOPE_CHECK(
      !plan.calibration.empty(), ErrorCode::usage, "the plan names no text to calibrate on",
      plan_path,
      "add \"calibration\": [FILES] to it, run `kvscope calibrate`, or name methods with -m");
  const CalibrationText text = read_calibration_text(plan.calibration, model.file());
  write_calibration(path, calibrate_on(model.loaded(), text, 0), false);
  say(path + ": made");
}

std::vector<Method> parse_all(const std::vector<std::string>& texts) {
  std::vector<Method> methods;
  for (const std::string& text : texts) {
    for (Method& method : parse_methods(text)) {
      methods.push_back(std::move(method));
    }
  }
  return methods;
}

std::string formatted(const std::vector<EvaluatedRun>& runs, const Options& options) {
  if (options.common.json || options.format == "json") {
    return evaluation_json(runs).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
           "\n";
  }
  return options.format == "csv"        ? evaluation_csv(runs)
         : options.format == "markdown" ? evaluation_markdown(runs, options.any_memory)
                                        : evaluation_text(runs, options.any_memory);
}

/// What the command line leaves open is the plan's, then ours.
void take_from(const EvaluationPlan& plan, Options& options) {
  options.models = options.models.empty() ? plan.models : options.models;
  KVSCOPE_CHECK(!options.models.empty(), ErrorCode::usage, "the plan names no model", options.plan,
                "pass --model MODEL, or add \"model\" to it");
  options.methods = options.methods.empty() ? plan.methods : options.methods;
  if (options.keeps.empty()) {
    options.keeps = plan.keeps.empty() ? std::vector<std::string>{"0.1", "0.2", "0.4"} : plan.keeps;
  }
  KVSCOPE_CHECK(!options.methods.empty() || !options.calibration.empty() || options.in_folder(),
                ErrorCode::usage, "triattention and alpha read a calibration", "--calibration",
                "name a file (it is made if it is not there), choose methods with -m, or write "
                "into a folder: -o DIR");
  KVSCOPE_CHECK(options.models.size() == 1 || options.calibration.empty(), ErrorCode::usage,
                fmt::format("one calibration serves one model, and there are {}",
                            options.models.size()),
                "--calibration", "write into a folder, -o DIR: each model gets its own there");
}

/// The cells of one model: those that are stored are taken, the others run, prompt by prompt.
class ModelCells {
 public:
  ModelCells(PlannedModel& model, const Options& options, const EvaluationPlan& plan,
             const EvaluationFolder* folder)
      : model_(model), options_(options), folder_(folder), methods_(parse_all(options.methods)) {
    if (methods_.empty()) {
      const std::string path =
          options.calibration.empty() ? folder->calibration(model.name) : options.calibration;
      need_calibration(path, options.plan, plan, model);
      methods_ = parse_all(seed_systems(path));
    }
    for (const std::string& keep : options.keeps) {
      budgets_.push_back(Budget::parse(keep));
    }
  }

  std::vector<EvaluatedRun> results(const PlannedPrompt& prompt) {
    std::map<Key, EvaluatedRun> done;
    for (const Budget& budget : budgets_) {
      for (const Method& method : methods_) {
        const auto stored = folder_ == nullptr ? std::nullopt
                                               : folder_->find(inputs(prompt, method, budget));
        if (stored) {
          done.emplace(key(method, budget), *stored);
        }
      }
    }
    const std::size_t stored = done.size();
    const std::size_t all = budgets_.size() * methods_.size();
    if (stored < all) {
      run_missing(prompt, done);
    }
    if (stored > 0) {
      say(fmt::format("{}, {}: {} of {} results were there already", model_.name, prompt.name,
                      stored, all));
    }
    std::vector<EvaluatedRun> runs;
    for (const Budget& budget : budgets_) {
      for (const Method& method : methods_) {
        runs.push_back(done.at(key(method, budget)));
      }
    }
    return runs;
  }

 private:
  using Key = std::pair<std::string, std::string>;
  static Key key(const Method& method, const Budget& budget) {
    return {method.text(), budget.text()};
  }

  CellInputs inputs(const PlannedPrompt& prompt, const Method& method, const Budget& budget) const {
    return {model_.name,
            model_.file().hash(),
            prompt,
            method.text(),
            method.descriptor_json(),
            budget.text(),
            fmt::format("{} {} {} {} {} {} {}", KVSCOPE_VERSION, options_.common.device,
                        options_.compute.dtype, options_.compute.weights, options_.cut_after,
                        options_.new_tokens, options_.plain)};
  }

  void run_missing(const PlannedPrompt& prompt, std::map<Key, EvaluatedRun>& done) {
    const auto start = std::chrono::steady_clock::now();
    GenerationOptions generation;
    generation.methods = methods_;
    generation.budgets = budgets_;
    generation.new_tokens = options_.new_tokens;
    generation.tokenizer = model_.file().tokenizer();
    generation.output_error = true;
    generation.cut_after_context = options_.cut_after == "context";
    LiveRunOptions live;
    live.stop = &stop_requested();
    const std::size_t stored = done.size();
    EvaluationCells cells;
    cells.model = model_.name;
    cells.wanted = [&](const Method& method, const Budget& budget) {
      return !done.contains(key(method, budget));
    };
    cells.done = [&](const Method& method, const Budget& budget, const EvaluatedRun& run) {
      if (folder_ != nullptr) {
        folder_->write(inputs(prompt, method, budget), run);
      }
      done.emplace(key(method, budget), run);
    };
    const std::string answer =
        evaluate_on(model_.loaded(), prompt, !options_.plain, generation, live, cells);
    say(fmt::format("{}: {} tokens, {} runs, {:.0f} s; the full cache answers: {}", prompt.name,
                    done.begin()->second.prompt_tokens, done.size() - stored, seconds_since(start),
                    nlohmann::json(answer).dump(-1, ' ', false,
                                                nlohmann::json::error_handler_t::replace)));
  }

  PlannedModel& model_;
  const Options& options_;
  const EvaluationFolder* folder_;
  std::vector<Method> methods_;
  std::vector<Budget> budgets_;
};

void run_evaluate(Options& options) {
  use_threads(options.common.threads);
  if (!options.output.empty() && !options.in_folder()) {
    refuse_existing(options.output, options.force);
  }
  const EvaluationPlan plan = read_plan(options.plan);
  take_from(plan, options);
  for (const std::string& keep : options.keeps) {
    Budget::parse(keep);
  }
  std::vector<PlannedModel> models = open_models(options);
  parse_all(options.methods);  // what is wrong there is found before a model is read
  std::optional<EvaluationFolder> folder;
  if (options.in_folder()) {
    folder.emplace(options.output, options.force);
  }
  std::vector<EvaluatedRun> runs;
  for (PlannedModel& model : models) {
    ModelCells cells(model, options, plan, folder ? &*folder : nullptr);
    for (const PlannedPrompt& prompt : plan.prompts) {
      const std::vector<EvaluatedRun> found = cells.results(prompt);
      runs.insert(runs.end(), found.begin(), found.end());
    }
    model.release();
  }
  const std::string text = formatted(runs, options);
  if (options.output.empty()) {
    print(text);
    return;
  }
  const std::string path =
      folder ? folder->table(options.common.json ? "json" : options.format) : options.output;
  write_text_file(path, text, options.force || folder.has_value());
  say(path);
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
  command->add_option("--model", options->models,
                      "A .gguf file or a Hugging Face folder; repeatable; default: the plan's");
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
      "it is not there; default with -o DIR: one for each model in it");
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
  command->add_flag("--force", options->force,
                    "Overwrite the output; in a folder, run what is finished again");
  command->add_option("-o,--output", options->output,
                      "A folder (a name without extension): one result a file in DIR/cells as soon "
                      "as it is there, then the table; or a file for the table alone");
  add_common(*command, options->common);
  command->footer(
      "A plan is {\"format\": \"kvscope.plan\", \"prompts\": [...]} and may hold \"model\" or "
      "\"models\", "
      "\"methods\",\n"
      "\"keeps\" and \"calibration\" (texts). A prompt is {\"name\", \"file\", \"needle\", "
      "\"question\",\n"
      "\"answer\", \"depth\"}; with a depth of 0 to 1 the needle is planted there as a line of its "
      "own.\n"
      "Killed or stopped with -o DIR, the same command goes on where it was: a result is run again "
      "only if\nits model, prompt, method, budget, calibration or options changed.\n"
      "Examples:\n"
      "  kvscope evaluate data/evaluate/plan.json --model model.gguf \\\n"
      "      --calibration model.calibration.h5 --format markdown\n"
      "  kvscope evaluate mine.json --model model.gguf -m snapkv -m laprox --keep 0.2 --json\n"
      "  kvscope evaluate mine.json --model one.gguf --model two.gguf -m snapkv -o results");
  command->callback([options] { run_evaluate(*options); });
}

}  // namespace kvscope::cli
