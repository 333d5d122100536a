#include "prompt_options.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/model/prompt.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope::cli {

void add_common(CLI::App& command, CommonOptions& options) {
  command.add_flag("--json", options.json, "Results as JSON with stable keys on stdout");
  command.add_option("--device", options.device, "cpu, cuda or cuda:N")->capture_default_str();
  command.add_option("--threads", options.threads, "Threads; 0 = all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

void use_threads(int threads) {
  if (threads > 0) {
    at::set_num_threads(threads);
  }
}

void add_prompt(CLI::App& command, PromptOptions& options) {
  command.add_option("-p,--prompt", options.text, "The prompt itself");
  command.add_option("-f,--file", options.file, "A UTF-8 text file with the prompt");
  command.add_option("--token-ids", options.token_ids,
                     "A file of token ids separated by white space; no tokenizer is used");
  command.add_option("--question", options.question, "Asked after the prompt (segment 'question')");
  command.add_flag("--allow-beyond-context", options.beyond_context,
                   "Take more tokens than the model was made for");
  command.add_flag("--chat", options.chat,
                   "Wrap in the model's own chat template (its clock stands at 26 July 2024)");
}

TokenTable read_prompt(const PromptOptions& options, const Tokenizer& tokenizer) {
  const int sources = static_cast<int>(!options.text.empty()) +
                      static_cast<int>(!options.file.empty()) +
                      static_cast<int>(!options.token_ids.empty());
  KVSCOPE_CHECK(sources == 1, ErrorCode::usage,
                sources == 0 ? "there is no prompt" : "the prompt is given more than once", "",
                "pass exactly one of -p TEXT, -f FILE and --token-ids FILE");
  if (!options.token_ids.empty()) {
    KVSCOPE_CHECK(!options.chat && options.question.empty(), ErrorCode::usage,
                  "--token-ids is the whole prompt; --chat and --question do not apply",
                  options.token_ids, "leave them out");
    return read_token_ids(options.token_ids, tokenizer);
  }
  PromptRequest request;
  request.text = options.file.empty() ? options.text : read_text_file(options.file);
  request.question = options.question;
  request.chat = options.chat;
  return build_prompt(tokenizer, request);
}

std::shared_ptr<const Tokenizer> open_tokenizer(const ModelFile& file,
                                                const PromptOptions& options) {
  try {
    return file.tokenizer();
  } catch (const Error&) {
    if (options.token_ids.empty()) {
      throw;
    }
    return number_tokenizer(file.config().shape.vocabulary);
  }
}

void check_context(const PromptOptions& options, const ModelConfig& config,
                   const TokenTable& prompt) {
  if (prompt.prompt_tokens <= config.context_length) {
    return;
  }
  const std::string what = fmt::format("the prompt has {} tokens, the model's context {}",
                                       prompt.prompt_tokens, config.context_length);
  KVSCOPE_CHECK(options.beyond_context, ErrorCode::usage, what, config.name,
                "shorten the prompt, or pass --allow-beyond-context");
  say("warning: " + what + "; it was never trained on such positions");
}

std::shared_ptr<const ModelFile> open_model(const std::string& path) {
  return std::shared_ptr<const ModelFile>(ModelFile::open(path));
}

void add_compute(CLI::App& command, ComputeOptions& options) {
  command.add_option("--dtype", options.dtype, "Of computation")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  command
      .add_option("--weights", options.weights,
                  "dense: in the type of computation; keep: in memory as the file stores them, "
                  "dequantised a tile at a time (same numbers, less memory; CPU)")
      ->check(CLI::IsMember({"dense", "keep"}))
      ->capture_default_str();
  command.add_flag("--strict", options.strict, "Refuse weights that are NaN or infinite");
}

RuntimeOptions runtime_options(const CommonOptions& common, const ComputeOptions& compute) {
  RuntimeOptions options;
  options.device = common.device;
  options.dtype = compute.dtype;
  options.strict = compute.strict;
  options.keep_weights = compute.weights == "keep";
  options.threads = common.threads;
  return options;
}

}  // namespace kvscope::cli
