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
};

void add_prompt(CLI::App& command, PromptOptions& options);

/// Reads and tokenizes. Throws Error{usage} unless exactly one source is given, or on an empty
/// prompt.
TokenTable read_prompt(const PromptOptions& options, const Tokenizer& tokenizer);

/// Opens MODEL and checks the device before any weight is read.
std::shared_ptr<const ModelFile> open_model(const std::string& path);

RuntimeOptions runtime_options(const CommonOptions& common, const std::string& dtype);

}  // namespace kvscope::cli
