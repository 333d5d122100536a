#include <fmt/format.h>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/methods/metrics.h"
#include "kvscope/report/formats.h"
#include "kvscope/report/report.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/isolated.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string capture;
  std::vector<std::string> decisions;
  std::vector<std::string> find;
  std::string answers;
  std::string format = "text";
  std::string output;
  int lost_tokens = 8;
  bool csv_tokens = false;
  bool any_memory = false;
  bool force = false;
};

/// Metrics are stored by `decide`; a decision without them is judged here, if the capture allows.
/// One that goes on behind the prompt is not: what it attended to there is not in the capture.
void complete_metrics(const CaptureReader& capture, std::vector<Decision>& decisions) {
  for (Decision& decision : decisions) {
    if (decision.metrics.empty() && decision.tokens <= capture.index().prompt_tokens) {
      std::vector<Decision> one;
      one.push_back(std::move(decision));
      compute_metrics(capture, one, MetricsOptions{});
      decision = std::move(one.front());
    }
  }
}

std::string formatted(const Report& report, const Options& options) {
  if (options.common.json || options.format == "json") {
    return to_json(report);
  }
  if (options.format == "csv") {
    return options.csv_tokens ? to_csv_tokens(report) : to_csv(report);
  }
  return options.format == "html" ? to_html(report) : to_text(report);
}

void run_report(const Options& options) {
  if (!options.output.empty()) {
    refuse_existing(options.output, options.force);
  }
  std::vector<std::string> files = {options.capture};
  files.insert(files.end(), options.decisions.begin(), options.decisions.end());
  check_isolated(files);
  const CaptureReader capture(options.capture);
  ReportInput input;
  input.capture = capture.index();
  input.tokens = capture.tokens();
  for (const std::string& path : options.decisions) {
    input.decisions.push_back(read_decision(path));
  }
  complete_metrics(capture, input.decisions);
  input.find = options.find;
  input.lost_tokens = options.lost_tokens;
  input.any_memory = options.any_memory;
  if (!options.answers.empty()) {
    const Answers answers = read_answers(read_text_file(options.answers),
                                         capture.index().capture_hash, options.answers);
    input.full_answer = answers.full;
    input.answers = answers.methods;
  }
  const std::string text = formatted(build_report(input), options);
  if (options.output.empty()) {
    print(text);
  } else {
    write_text_file(options.output, text, options.force);
    say(options.output);
  }
}

}  // namespace

void add_report(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand(
      "report", "Budgets, fates, costs, agreement and lost tokens of decisions on a capture");
  command->add_option("CAPTURE", options->capture, "X.capture.h5")->required();
  command->add_option("DECISIONS", options->decisions, "D.decision.h5 ...")->required();
  command->add_option("--find", options->find, "Follow the tokens of this text; repeatable");
  command->add_option("--answers", options->answers, "answers.json of `kvscope generate -o DIR`");
  command->add_option("--format", options->format, "text, json, csv or html")
      ->check(CLI::IsMember({"text", "json", "csv", "html"}))
      ->capture_default_str();
  command->add_flag("--csv-tokens", options->csv_tokens,
                    "With csv: a row for each token instead of each head");
  command->add_option("--lost-tokens", options->lost_tokens, "Most costly lost tokens listed")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  command->add_flag("--any-memory", options->any_memory,
                    "Compare methods whose mean caches differ by more than 5 % too");
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output, "A file instead of stdout");
  add_common(*command, options->common);
  command->footer(
      "Examples:\n"
      "  kvscope report run.capture.h5 decisions/*.decision.h5 --find \"7421\"\n"
      "  kvscope report run.capture.h5 decisions/*.decision.h5 --format html -o report.html");
  command->callback([options] { run_report(*options); });
}

}  // namespace kvscope::cli
