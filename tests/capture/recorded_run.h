#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>

#include "fake_model.h"
#include "kvscope/capture/recorder.h"
#include "kvscope/core/tokens.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::test {

/// A folder of its own, removed at the end.
class CaptureFolder {
 public:
  CaptureFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvscope-capture-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~CaptureFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  CaptureFolder(const CaptureFolder&) = delete;
  CaptureFolder& operator=(const CaptureFolder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  bool empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};

/// The prompt of fake_prompt, of which the last `question` tokens are the question.
inline TokenTable asked_prompt(int tokens, int question) {
  TokenTable prompt = fake_prompt(tokens);
  prompt.context_tokens = tokens - question;
  std::fill(prompt.segment.end() - question, prompt.segment.end(), Segment::question);
  return prompt;
}

inline CaptureIndex index_for(const Model& model, const TokenTable& prompt,
                              const CaptureRequest& request) {
  CaptureIndex index;
  index.model_name = model.config().name;
  index.model_hash = model.file().hash();
  index.compute_dtype = index.cache_dtype = model.options().dtype;
  index.shape = model.shape();
  index.profile = request.profile;
  index.prompt_tokens = prompt.prompt_tokens;
  index.context_tokens = prompt.context_tokens;
  index.tokens = prompt.prompt_tokens + request.new_tokens;
  index.first_query = request.profile == Profile::full ? 0
                      : request.profile == Profile::qkv
                          ? std::max(0, prompt.prompt_tokens - request.stored_queries)
                          : prompt.prompt_tokens;
  index.request_json = request_json(request);
  index.capture_hash = sequence_hash(index.model_hash, prompt);
  return index;
}

/// Runs a fake model over `prompt` in chunks and records it; feeds 3, 4, 5... as new tokens.
/// Returns the run as it stood after the prompt, for comparison.
inline std::unique_ptr<LiveRun> record(const std::string& path, const CaptureRequest& request,
                                       const TokenTable& prompt, int chunk = 0,
                                       const std::string& dtype = "float32") {
  const std::shared_ptr<const Model> model = fake_model(dtype);
  LiveRunOptions options;
  options.prefill_chunk = chunk;
  options.statistics_window = prompt.prompt_tokens;
  std::unique_ptr<LiveRun> run = LiveRun::start(model, prompt, options);
  Recorder recorder(
      path, request, index_for(*model, prompt, request), prompt,
      [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  record_keys_gradient(*run, recorder);
  run->prefill(true, &recorder);
  recorder.prefill_logits(run->logits());
  std::unique_ptr<LiveRun> after_prompt = run->fork();
  for (int step = 1; step <= request.new_tokens; ++step) {
    run->decode(2 + step, &recorder);
  }
  recorder.finish(request.new_tokens);
  return after_prompt;
}

}  // namespace kvscope::test
