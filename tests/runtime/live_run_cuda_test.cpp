// The same run on the CPU and on CUDA. Without a device every test is skipped.
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "kvscope/evidence/layer_evidence.h"
#include "kvscope/kernels/attention_stats.h"
#include "kvscope/model/prompt.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::test {
namespace {

/// float32 sums in another order, through two layers and the head.
constexpr double tolerance = 2e-4;

class LiveRunCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why_not;
    if (!cuda_available(&why_not)) {
      GTEST_SKIP() << "no CUDA here: " << why_not;
    }
  }

  static std::unique_ptr<LiveRun> prefilled(const std::string& device) {
    const std::shared_ptr<const ModelFile> file =
        ModelFile::open(KVSCOPE_SOURCE_DIR "/data/tiny.gguf");
    PromptRequest request;
    request.text = "the quick brown fox jumps over the lazy dog, and then sleeps in the sun";
    auto run = LiveRun::start(Model::load(file, {device, "float32", 1}),
                              build_prompt(*file->tokenizer(), request), {});
    run->prefill(true, nullptr);
    return run;
  }

  static double worst(const at::Tensor& a, const at::Tensor& b) {
    return a.cpu().sub(b.cpu()).abs().max().item<double>();
  }
};

TEST_F(LiveRunCuda, PrefillAndDecodeAreTheTwinsOfTheCpu) {
  const auto cpu = prefilled("cpu");
  const auto cuda = prefilled("cuda");
  EXPECT_LT(worst(cuda->logits(), cpu->logits()), tolerance);
  for (int step = 0; step < 5; ++step) {
    const std::int32_t token = sample(cpu->logits(), {}, step);
    EXPECT_EQ(sample(cuda->logits(), {}, step), token);
    cpu->decode(token, nullptr);
    cuda->decode(token, nullptr);
    EXPECT_LT(worst(cuda->logits(), cpu->logits()), tolerance);
  }
}

TEST_F(LiveRunCuda, EvidenceIsTheTwinOfTheCpu) {
  const auto cpu = prefilled("cpu");
  const auto cuda = prefilled("cuda");
  for (int layer = 0; layer < cpu->shape().layers; ++layer) {
    const auto expected = cpu->layer(layer);
    const auto evidence = cuda->layer(layer);
    EXPECT_LT(worst(evidence->keys(Frame::post_rope), expected->keys(Frame::post_rope)), tolerance);
    EXPECT_LT(worst(evidence->values(), expected->values()), tolerance);
    EXPECT_LT(worst(evidence->attention_sum(), expected->attention_sum()), tolerance);
    EXPECT_LT(worst(evidence->window_sum(8), expected->window_sum(8)), tolerance);
    EXPECT_LT(worst(evidence->projected_value_norm(2), expected->projected_value_norm(2)),
              tolerance);
  }
}

}  // namespace
}  // namespace kvscope::test
