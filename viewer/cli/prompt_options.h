#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "command.h"
#include "kvscope/core/tokens.h"
#include "kvscope/model/model_file.h"
#include "kvscope/runtime/model.h"

namespace kvscope::cli {

/// Where the prompt comes from; shared by `capture` and `generate`.
struct PromptOptions {
  std::string text;
  std::string file;
  std::string token_ids;
  std::string question;
  bool chat = false;
  bool beyond_context = false;
};

void add_prompt(CLI::App& command, PromptOptions& options);

/// Reads and tokenizes. Throws Error{usage} unless exactly one source is given, or on an empty
/// prompt.
TokenTable read_prompt(const PromptOptions& options, const Tokenizer& tokenizer);

/// The model's tokenizer. With --token-ids, which needs none, one of numbers where the model's own
/// is missing or unknown.
std::shared_ptr<const Tokenizer> open_tokenizer(const ModelFile& file,
                                                const PromptOptions& options);

/// Throws Error{usage} if the prompt is longer than what the model was made for, unless that is
/// allowed; before any weight is read.
void check_context(const PromptOptions& options, const ModelConfig& config,
                   const TokenTable& prompt);

/// Opens MODEL and checks the device before any weight is read.
std::shared_ptr<const ModelFile> open_model(const std::string& path);

/// What the model computes with; shared by all that run one.
struct ComputeOptions {
  std::string dtype = "float32";
  std::string weights = "dense";
  bool strict = false;
};

void add_compute(CLI::App& command, ComputeOptions& options);

RuntimeOptions runtime_options(const CommonOptions& common, const ComputeOptions& compute);

}  // namespace kvscope::cli
