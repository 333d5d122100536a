#include "run_checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvscope/core/error.h"

namespace kvscope::detail {

void check_run(const ModelConfig& config, const TokenTable& prompt, const LiveRunOptions& options) {
  KVSCOPE_CHECK(prompt.prompt_tokens > 0 && prompt.prompt_tokens == prompt.size(), ErrorCode::usage,
                "the prompt is empty", "prompt", "give it some text");
  KVSCOPE_CHECK(options.beyond_context || prompt.prompt_tokens <= config.context_length,
                ErrorCode::usage,
                fmt::format("the prompt has {} tokens, the model's context {}",
                            prompt.prompt_tokens, config.context_length),
                config.name, "shorten the prompt, or pass --allow-beyond-context");
  KVSCOPE_CHECK(
      prompt.position.size() == prompt.id.size() &&
          std::all_of(prompt.id.begin(), prompt.id.end(),
                      [&](std::int32_t id) { return id >= 0 && id < config.shape.vocabulary; }),
      ErrorCode::usage,
      fmt::format("a token id lies outside the vocabulary of {}", config.shape.vocabulary),
      "prompt", "tokenize with this model's tokenizer");
  KVSCOPE_CHECK(options.prefill_chunk >= 0 && options.statistics_window > 0, ErrorCode::usage,
                fmt::format("prefill chunk {}, statistics window {}", options.prefill_chunk,
                            options.statistics_window),
                "run options", "use a chunk >= 0 (0 = one pass) and a window >= 1");
}

}  // namespace kvscope::detail
