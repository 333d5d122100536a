#include <fmt/format.h>
#include <fmt/ranges.h>

#include "command.h"
#include "console.h"
#include "isolated.h"
#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "kvscope/storage/calibration_file.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/capture_state.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string file;
};

using Facts = nlohmann::ordered_json;

Facts capture_facts(const std::string& path) {
  const CaptureReader reader(path);
  const CaptureIndex& index = reader.index();
  std::vector<std::string> dropped;
  for (const DroppedRange& range : reader.dropped()) {
    dropped.push_back(dropped_text(range));
  }
  return {{"kind", "capture"},
          {"version", fmt::format("{}.{}", index.version_major, index.version_minor)},
          {"created_by", index.created_by},
          {"created_utc", index.created_utc},
          {"model", index.model_name},
          {"model_hash", index.model_hash},
          {"architecture", index.architecture},
          {"weights_dtype", index.weights_dtype},
          {"compute_dtype", index.compute_dtype},
          {"attached_to", index.attached_to},
          {"method", index.method},
          {"budget", index.budget},
          {"profile", profile_name(index.profile)},
          {"capture_hash", index.capture_hash},
          {"layers", index.shape.layers},
          {"captured_layers", index.layers.size()},
          {"query_heads", index.shape.query_heads},
          {"kv_heads", index.shape.kv_heads},
          {"head_dim", index.shape.head_dim},
          {"prompt_tokens", index.prompt_tokens},
          {"context_tokens", index.context_tokens},
          {"steps", index.steps},
          {"windows", index.windows},
          {"first_query", index.first_query},
          {"state", index.state},
          {"state_name", state_name(index.state)},
          {"message", index.message},
          {"nonfinite_weights", index.nonfinite_weights},
          {"notes", index.notes},
          {"dropped", dropped}};
}

/// What to do about a capture that is not complete; empty if it is.
std::string cure_of(const std::string& path, const Facts& facts) {
  if (facts.at("kind") != "capture" || facts.at("state") == static_cast<int>(CaptureState::done)) {
    return {};
  }
  if (being_written(path)) {
    return fmt::format("still being written ({}), {} steps committed; readers may follow it",
                       facts.at("state_name").get<std::string>(), facts.at("steps").dump());
  }
  return fmt::format(
      "incomplete: the run ended in state '{}' with {} steps committed; `kvscope recover {} -o "
      "OUT.capture.h5` copies them to a fresh file",
      facts.at("state_name").get<std::string>(), facts.at("steps").dump(), path);
}

Facts decision_facts(const std::string& path) {
  const Decision decision = read_decision(path);
  return {{"kind", "decision"},
          {"method", decision.method},
          {"keep", decision.keep},
          {"budget_slots", decision.budget_slots},
          {"granted_slots", decision.granted_slots()},
          {"kept_slots", decision.kept_slots()},
          {"by_method", decision.by_method},
          {"replayed", decision.replayed},
          {"replay_exact", decision.replay_exact},
          {"capture_hash", decision.capture_hash},
          {"model", decision.model_name},
          {"layers", decision.layers.size()},
          {"kv_heads", decision.kv_heads},
          {"tokens", decision.tokens},
          {"cut_tokens", decision.cut_tokens},
          {"events", decision.events.size()},
          {"metrics", decision.metrics.empty() ? "none" : decision.metrics.queries}};
}

Facts spectrum_facts(const std::string& path) {
  const Spectrum spectrum = read_spectrum(path);
  return {{"kind", "spectrum"},
          {"model", spectrum.model_name},
          {"model_hash", spectrum.model_hash},
          {"weights_dtype", spectrum.weights_dtype},
          {"layers", spectrum.layers.size()},
          {"projections", spectrum.projections},
          {"query_heads", spectrum.query_heads},
          {"kv_heads", spectrum.kv_heads},
          {"head_dim", spectrum.head_dim},
          {"hidden_dim", spectrum.hidden_dim}};
}

Facts calibration_facts(const std::string& path) {
  const Calibration calibration = read_calibration(path);
  return {{"kind", "calibration"},
          {"model", calibration.model_name},
          {"model_hash", calibration.model_hash},
          {"corpus_hash", calibration.corpus_hash},
          {"tokens", calibration.tokens},
          {"window", calibration.window},
          {"layers", calibration.layers},
          {"query_heads", calibration.query_heads},
          {"kv_heads", calibration.kv_heads},
          {"head_dim", calibration.head_dim}};
}

Facts model_facts(const std::string& path) {
  const auto model = ModelFile::open(path);
  const ModelConfig& config = model->config();
  return {{"kind", "model"},
          {"name", config.name},
          {"architecture", config.architecture},
          {"model_hash", model->hash()},
          {"weights_dtype", config.weights_dtype},
          {"layers", config.shape.layers},
          {"query_heads", config.shape.query_heads},
          {"kv_heads", config.shape.kv_heads},
          {"head_dim", config.shape.head_dim},
          {"hidden_dim", config.shape.hidden_dim},
          {"mlp_dim", config.mlp_dim},
          {"vocabulary", config.shape.vocabulary},
          {"context_length", config.context_length},
          {"rope_base", config.shape.rope.base},
          {"tied_embeddings", config.tied_embeddings}};
}

int run_inspect(const Options& options) {
  Facts facts;
  std::vector<std::string> parts;
  switch (file_kind(options.file)) {
    case FileKind::capture:
      facts = capture_facts(options.file);
      parts = describe_datasets(options.file);
      break;
    case FileKind::decision:
      facts = decision_facts(options.file);
      parts = describe_datasets(options.file);
      break;
    case FileKind::spectrum:
      facts = spectrum_facts(options.file);
      parts = describe_datasets(options.file);
      break;
    case FileKind::calibration:
      facts = calibration_facts(options.file);
      parts = describe_datasets(options.file);
      break;
    case FileKind::gguf:
    case FileKind::safetensors:
    case FileKind::hf_folder:
      facts = model_facts(options.file);
      parts = ModelFile::open(options.file)->describe();
      break;
    case FileKind::unknown:
      throw Error(ErrorCode::unsupported, "this is no file that kvscope knows", options.file,
                  "give a capture, decision, spectrum or calibration (.h5), or a .gguf model");
  }
  const std::string cure = cure_of(options.file, facts);
  if (!cure.empty()) {
    facts["incomplete"] = cure;
  }
  if (options.common.json) {
    facts["parts"] = parts;
    print_json(facts);
    return 0;
  }
  std::string text;
  for (const auto& [name, value] : facts.items()) {
    text += fmt::format("{:<16} {}\n", name,
                        value.is_string() ? value.get<std::string>() : value.dump());
  }
  print(text + fmt::format("\n{}\n", fmt::join(parts, "\n")));
  return 0;
}

int run_check(const Options& options) {
  std::vector<std::string> findings;
  const FileKind kind = file_kind(options.file);
  if (kind == FileKind::unknown) {
    throw Error(ErrorCode::unsupported, "this is no file that kvscope knows", options.file,
                "give a capture, decision, spectrum or calibration (.h5), or a .gguf model");
  }
  if (kind == FileKind::gguf || kind == FileKind::safetensors || kind == FileKind::hf_folder) {
    ModelFile::open(options.file);  // opening checks every count, offset, type and shape
  } else {
    findings = check_file(options.file);
  }
  if (options.common.json) {
    print_json({{"file", options.file}, {"sound", findings.empty()}, {"findings", findings}});
  } else if (findings.empty()) {
    print("sound");
  } else {
    print(fmt::format("{}", fmt::join(findings, "\n")));
  }
  return findings.empty() ? 0 : 3;
}

}  // namespace

void add_inspect(Program program) {
  auto options = std::make_shared<Options>();
  int& status = program.status;
  CLI::App* command = program.app.add_subcommand("inspect", "Show what a file holds");
  command->add_option("FILE", options->file, "Capture, decision, spectrum, calibration or model")
      ->required();
  add_common(*command, options->common);
  command->footer(
      "Examples:\n  kvscope inspect run.capture.h5\n  kvscope inspect model.gguf --json");
  command->callback([options, &status] {
    status = read_isolated(options->file, [&] { return run_inspect(*options); });
  });
}

void add_check(Program program) {
  auto options = std::make_shared<Options>();
  int& status = program.status;
  CLI::App* command =
      program.app.add_subcommand("check", "Read a file whole and check every rule it must keep");
  command->add_option("FILE", options->file, "Capture, decision, spectrum, calibration or model")
      ->required();
  add_common(*command, options->common);
  command->footer(
      "Examples:\n  kvscope check run.capture.h5\nExit status 3: something was found. The file "
      "is read in a process of its own: a damaged one\nmay crash the HDF5 library.");
  command->callback([options, &status] {
    status = read_isolated(options->file, [&] { return run_check(*options); });
  });
}

}  // namespace kvscope::cli
