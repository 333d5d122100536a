#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "kvscope/capture/request.h"
#include "kvscope/core/tokens.h"
#include "prompt_options.h"

namespace kvscope::cli {

/// What `capture` is asked to write down, as it was typed.
struct RequestOptions {
  std::string profile;
  std::string windows = "32,64";
  std::string layers = "all";
  std::string hooks;
  std::string hook_tokens = "all";
  std::string reductions;
  std::string group_reduces;
  ComputeOptions compute;
  std::string output;
  CaptureRequest request;  ///< the rest of it
};

void add_request(CLI::App& command, RequestOptions& options);

/// Fills in `options.request`, but for the profile, for a model and a prompt. Throws Error{usage}
/// naming the flag.
void resolve_request(RequestOptions& options, const ModelShape& shape, const TokenTable& prompt);

}  // namespace kvscope::cli
