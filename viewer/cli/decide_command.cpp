#include <fmt/format.h>

#include <filesystem>
#include <map>

#include "command.h"
#include "console.h"
#include "decision_names.h"
#include "kvscope/core/error.h"
#include "kvscope/evidence/capture_run.h"
#include "kvscope/methods/method.h"
#include "kvscope/methods/metrics.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/isolated.h"

namespace kvscope::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  CommonOptions common;
  std::string capture;
  std::vector<std::string> methods;
  std::vector<std::string> keeps = {"0.2"};
  std::string metrics = "decode";
  std::string cut_after = "prompt";
  std::string rounding = "ours";
  std::string output;
  std::uint64_t seed = 0;
  bool force = false;
  DecideOptions decide;
};

struct Timing {
  double open = 0;
  double decide = 0;
  double metrics = 0;
  double write = 0;
};

std::vector<std::string> output_names(const Options& options,
                                      const std::vector<Decision>& decisions) {
  if (options.output.ends_with(".h5")) {
    KVSCOPE_CHECK(decisions.size() == 1, ErrorCode::usage,
                  fmt::format("{} decisions do not fit into one file", decisions.size()),
                  options.output, "name a folder: -o DIR");
    return {options.output};
  }
  std::vector<std::string> names;
  for (const Decision& decision : decisions) {
    names.push_back((std::filesystem::path(options.output) /
                     decision_file_name(options.capture, decision.method, decision.keep))
                        .string());
  }
  return names;
}

void print_result(const Options& options, const std::vector<Decision>& decisions,
                  const std::vector<std::string>& names, const Timing& time) {
  nlohmann::json rows = nlohmann::json::array();
  std::string table = fmt::format("{:<44} {:>8} {:>10} {:>10} {:>9}\n", "method", "keep", "granted",
                                  "held", "error");
  for (std::size_t index = 0; index < decisions.size(); ++index) {
    const Decision& decision = decisions[index];
    double error = 0;
    for (const float value : decision.metrics.output_error) {
      error += value;
    }
    const bool measured = !decision.metrics.empty();
    error = measured ? error / static_cast<double>(decision.metrics.output_error.size()) : 0;
    rows.push_back({{"file", names[index]},
                    {"method", decision.method},
                    {"keep", decision.keep},
                    {"granted_slots", decision.granted_slots()},
                    {"kept_slots", decision.kept_slots()},
                    {"budget_slots", decision.budget_slots},
                    {"by_method", decision.by_method},
                    {"mean_output_error", measured ? nlohmann::json(error) : nlohmann::json()}});
    table += fmt::format("{:<44} {:>8} {:>10} {:>10} {:>9}\n", decision.method, decision.keep,
                         decision.granted_slots(), decision.kept_slots(),
                         measured ? fmt::format("{:.4f}", error) : "-");
  }
  if (options.common.json) {
    print_json({{"capture", options.capture},
                {"decisions", rows},
                {"seconds",
                 {{"open", time.open},
                  {"decide", time.decide},
                  {"metrics", time.metrics},
                  {"write", time.write}}}});
    return;
  }
  print(table);
  print(fmt::format("decide {:.0f} ms, metrics {:.0f} ms, open {:.0f} ms, write {:.0f} ms; {}",
                    1e3 * time.decide, 1e3 * time.metrics, 1e3 * time.open, 1e3 * time.write,
                    names.size() == 1 ? names.front() : options.output + "/"));
}

void run_decide(const Options& options) {
  use_threads(options.common.threads);
  std::vector<Method> methods;
  for (const std::string& text : options.methods) {
    for (Method& method : parse_methods(text)) {
      methods.push_back(std::move(method));
    }
  }
  KVSCOPE_CHECK(options.rounding == "ours" || options.rounding == "reference", ErrorCode::usage,
                fmt::format("unknown rounding '{}'", options.rounding), "--rounding",
                "use ours or reference");
  std::vector<Budget> budgets;
  for (const std::string& keep : options.keeps) {
    budgets.push_back(Budget::parse(
        keep, options.rounding == "ours" ? Budget::Rounding::ours : Budget::Rounding::reference));
  }
  const MetricsOptions metrics = MetricsOptions::parse(options.metrics);

  check_isolated({options.capture});
  Timing time;
  auto start = Clock::now();
  const auto reader = std::make_shared<const CaptureReader>(options.capture);
  CaptureRun run(
      reader,
      options.cut_after == "context" ? CaptureRun::CutAfter::context : CaptureRun::CutAfter::prompt,
      options.seed);
  time.open = seconds_since(start);
  start = Clock::now();
  std::vector<Decision> decisions = decide_all(run, methods, budgets, options.decide);
  time.decide = seconds_since(start);

  const std::vector<std::string> names = output_names(options, decisions);
  for (const std::string& name : names) {
    refuse_existing(name, options.force);
  }
  start = Clock::now();
  compute_metrics(*reader, decisions, metrics);
  time.metrics = seconds_since(start);
  start = Clock::now();
  if (!options.output.ends_with(".h5")) {
    make_folder(options.output);
  }
  for (std::size_t index = 0; index < decisions.size(); ++index) {
    write_decision(names[index], decisions[index], options.force);
  }
  time.write = seconds_since(start);
  print_result(options, decisions, names, time);
}

}  // namespace

void add_decide(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      program.app.add_subcommand("decide", "Decide from a capture: each method at each budget");
  command->add_option("CAPTURE", options->capture, "X.capture.h5")->required();
  command
      ->add_option("-m,--method", options->methods,
                   "Method text; repeatable, see `kvscope methods`")
      ->required();
  command
      ->add_option("--keep", options->keeps,
                   "Budget: 0.2 (fraction), 1024 (slots per KV head) or 64MiB; repeatable")
      ->capture_default_str();
  command->add_flag("--scores", options->decide.scores, "Store the scores");
  command->add_flag("--terms", options->decide.terms, "Store the score terms");
  command
      ->add_option("--metrics", options->metrics,
                   "Judge by: decode (else the last 64 queries), last:N, none")
      ->capture_default_str();
  command->add_option("--cut-after", options->cut_after, "prompt, or context: before the question")
      ->check(CLI::IsMember({"prompt", "context"}))
      ->capture_default_str();
  command->add_option("--rounding", options->rounding, "ours, or reference (as kvpress counts)")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of methods that draw")->capture_default_str();
  command->add_flag("--force", options->force, "Overwrite existing decisions");
  command->add_option("-o,--output", options->output, "A folder, or one X.decision.h5")->required();
  add_common(*command, options->common);
  command->footer(
      "Examples:\n"
      "  kvscope decide run.capture.h5 -m snapkv -m laprox -m \"snapkv|nearest_key\" --keep 0.2 -o "
      "decisions\n"
      "  kvscope decide run.capture.h5 -m snapkv:window=32,pool=7 --keep 0.1 --keep 256 -o "
      "decisions");
  command->callback([options] { run_decide(*options); });
}

}  // namespace kvscope::cli
