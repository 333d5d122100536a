#include <fmt/format.h>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/report/compare.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/isolated.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string a;
  std::string b;
  Tolerance tolerance;
};

int run_compare(const Options& options) {
  check_isolated({options.a, options.b});
  const FileKind kind = file_kind(options.a);
  KVSCOPE_CHECK(kind == FileKind::capture || kind == FileKind::decision, ErrorCode::unsupported,
                "only captures and decisions are compared", options.a,
                "name two X.capture.h5 or two D.decision.h5");
  KVSCOPE_CHECK(file_kind(options.b) == kind, ErrorCode::usage,
                "one file is a capture, the other is not", options.b,
                "name two captures or two decisions");
  const Comparison comparison =
      kind == FileKind::capture
          ? compare_captures(CaptureReader(options.a), CaptureReader(options.b), options.tolerance)
          : compare_decisions(read_decision(options.a), read_decision(options.b),
                              options.tolerance);
  print(options.common.json ? to_json(comparison) : to_text(comparison));
  return comparison.differences.empty() ? 0 : 3;
}

}  // namespace

void add_compare(Program program) {
  auto options = std::make_shared<Options>();
  int& status = program.status;
  CLI::App* command = program.app.add_subcommand(
      "compare", "What differs between two captures or two decisions, where first, how much");
  command->add_option("A", options->a, "A capture or a decision")->required();
  command->add_option("B", options->b, "Another of the same kind")->required();
  command->add_option("--absolute", options->tolerance.absolute, "Numbers this far apart are equal")
      ->check(CLI::Range(0.0, 1e30))
      ->capture_default_str();
  command
      ->add_option("--relative", options->tolerance.relative,
                   "And so are those that differ by this share of A's")
      ->check(CLI::Range(0.0, 1e30))
      ->capture_default_str();
  add_common(*command, options->common);
  command->footer(
      "Examples:\n"
      "  kvscope compare float32.capture.h5 bfloat16.capture.h5 --relative 0.02\n"
      "  kvscope compare decisions/a.decision.h5 decisions/b.decision.h5 --json\n"
      "Datasets are compared layer by layer in the order of a forward pass, so that the first line "
      "of "
      "a layer\nis where two runs part. Exit status 3: they differ.");
  command->callback([options, &status] { status = run_compare(*options); });
}

}  // namespace kvscope::cli
