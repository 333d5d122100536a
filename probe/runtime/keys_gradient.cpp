#include "kvscope/core/error.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope {

void record_keys_gradient(LiveRun& run, Recorder& recorder) {
  if (!recorder.wants_keys_gradient()) {
    return;
  }
  KVSCOPE_CHECK(run.tokens_seen() == 0, ErrorCode::usage,
                "gradients of the prompt's keys come before the prompt", "live run",
                "call record_keys_gradient before prefill");
  ForwardRequest request;
  request.append = false;
  request.key_gradient = KeyGradient::float32;
  request.observe = [&](const LayerEvidence& evidence) {
    recorder.keys_gradient(evidence.moment().layer, evidence.key_gradient());
  };
  const TokenTable& tokens = run.tokens();
  run.forward({tokens.id.data(), static_cast<std::size_t>(tokens.prompt_tokens)}, request);
}

}  // namespace kvscope
