#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kvscope/storage/capture_reader.h"
#include "program.h"

namespace kvscope::test {
namespace {

TEST(CaptureRequest, HooksSelectionsReductionsAndSnapshots) {
  Workspace workspace;
  const Result capture = workspace(
      "capture tiny.gguf -f prompt.txt --profile qkv --layers every:2 --query-heads 0,3 "
      "--hooks residual_out,logits,keys_pre_rope --hook-tokens last:3 --new-tokens 6 "
      "--steps every:3 --reductions head_output_norm,attention_row --snapshots 0,6 "
      "-o x.capture.h5 --json");
  ASSERT_EQ(capture.status, 0) << capture.err;
  EXPECT_EQ(capture.json()["steps"], 6);
  const Result check = workspace("check x.capture.h5");
  EXPECT_EQ(check.status, 0) << check.out << check.err;
  const CaptureReader reader((workspace.folder() / "x.capture.h5").string());
  const int prompt = reader.index().prompt_tokens;
  EXPECT_EQ(reader.index().layers, std::vector<int>{0});
  EXPECT_EQ(reader.index().query_heads, (std::vector<int>{0, 3}));
  EXPECT_EQ(reader.index().step_numbers, (std::vector<int>{3, 6}));
  EXPECT_EQ(reader.index().hook_tokens, (std::vector<int>{prompt - 3, prompt - 2, prompt - 1}));
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(reader.shape("layers/000/residual_out"), (Shape{3, 64}));
  EXPECT_EQ(reader.shape("model/logits"), (Shape{3, 300}));
  EXPECT_EQ(reader.shape("steps/logits"), (Shape{2, 300}));
  EXPECT_EQ(reader.shape("steps/keys_pre_rope"), (Shape{2, 1, 2, 16}));
  EXPECT_EQ(reader.shape("steps/head_output_norm"), (Shape{2, 1, 2}));
  EXPECT_EQ(reader.shape("steps/attention_row"), (Shape{2, 1, 2, prompt + 6}));
  EXPECT_EQ(reader.shape("snapshots/keys"), (Shape{2, 1, 2, prompt + 6, 16}));
  const Result inspect = workspace("inspect x.capture.h5");
  EXPECT_NE(inspect.out.find("/layers/000/residual_out"), std::string::npos) << inspect.out;
  // What compares heads needs all of them, and says which flag left them out.
  const Result decide = workspace("decide x.capture.h5 -m knorm --keep 0.5 -o x.decision.h5");
  EXPECT_EQ(decide.status, 1);
  EXPECT_NE(decide.err.find("--query-heads"), std::string::npos) << decide.err;
}

TEST(CaptureRequest, RowsOfAttentionGradientsAndGroups) {
  Workspace workspace;
  const std::string request =
      "capture tiny.gguf -f prompt.txt --profile window --window 8 --hooks "
      "logits_attention,keys_gradient --hook-tokens last:3 --sample-queries 4 --seed 2 "
      "--group-reduce max --new-tokens 2 -o x.capture.h5 ";
  const Result price = workspace(request + "--price --json");
  ASSERT_EQ(price.status, 0) << price.err;
  ASSERT_EQ(workspace(request).status, 0);
  EXPECT_EQ(workspace("check x.capture.h5").out, "sound\n");
  const CaptureReader reader((workspace.folder() / "x.capture.h5").string());
  const int prompt = reader.index().prompt_tokens;
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(reader.shape("layers/001/logits_attention"), (Shape{4, 3, prompt}));
  EXPECT_EQ(reader.shape("layers/001/keys_gradient"), (Shape{2, 3, 16}));
  EXPECT_EQ(reader.shape("steps/logits_attention"), (Shape{2, 2, 4, prompt + 2}));
  EXPECT_EQ(reader.shape("reduce/attention_sum_sampled"), (Shape{2, 4, prompt}));
  EXPECT_EQ(reader.shape("reduce/group_max/attention_sum_sampled"), (Shape{2, 2, prompt}));
  EXPECT_EQ(reader.shape("reduce/group_max/window_8/window_max"), (Shape{2, 2, prompt}));
  const Result wrong =
      workspace("capture tiny.gguf -f prompt.txt --group-reduce median -o y.capture.h5");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_NE(wrong.err.find("mean, sum or max"), std::string::npos) << wrong.err;
  const Result late = workspace(
      "capture tiny.gguf -f prompt.txt --hooks keys_gradient --steps decode -o y.capture.h5");
  EXPECT_EQ(late.status, 2);
  EXPECT_NE(late.err.find("keep step 0"), std::string::npos) << late.err;
}

TEST(CaptureRequest, LogitsOfTheLastTokenAreWhatTheFirstStepIsDrawnFrom) {
  Workspace workspace;
  const Result capture = workspace(
      "capture tiny.gguf -f prompt.txt --profile window --hooks logits --hook-tokens last:1 "
      "--new-tokens 2 -o x.capture.h5");
  ASSERT_EQ(capture.status, 0) << capture.err;
  const CaptureReader reader((workspace.folder() / "x.capture.h5").string());
  std::vector<float> logits(300);
  reader.read("model/logits", {0, 0}, {1, 300}, std::span(logits));
  std::vector<std::int32_t> best(1);
  reader.read("model/logit_token", {0}, {1}, std::span(best));
  EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), best[0]);
  EXPECT_EQ(reader.tokens().id[static_cast<std::size_t>(reader.index().prompt_tokens)], best[0]);
}

TEST(CaptureRequest, PriceIsThatOfTheFileAndNothingRuns) {
  Workspace workspace;
  const std::string request =
      "capture tiny.gguf -f prompt.txt --profile full --hooks residual_in,mlp_output "
      "--new-tokens 4 -o x.capture.h5 --json";
  const Result price = workspace(request + " --price");
  ASSERT_EQ(price.status, 0) << price.err;
  EXPECT_FALSE(workspace.has("x.capture.h5"));
  const Result capture = workspace(request);
  ASSERT_EQ(capture.status, 0) << capture.err;
  const double bytes = capture.json()["bytes"].get<double>();
  const double priced = price.json()["disk_bytes"].get<double>();
  EXPECT_NEAR(bytes, priced, 0.35 * priced + (1 << 18));  // chunks, and headers of the objects
  EXPECT_GT(price.json()["seconds"].get<double>(), 0.0);
}

TEST(CaptureRequest, LiveFilesHoldStepsThatWereChosen) {
  Workspace workspace;
  const Result capture = workspace(
      "capture tiny.gguf -f prompt.txt --live --hooks residual_mid --new-tokens 40 --steps every:4 "
      "--profile scores --reductions evicted_mass --method knorm --keep 0.5 -o x.capture.h5");
  ASSERT_EQ(capture.status, 0) << capture.err;
  const CaptureReader reader((workspace.folder() / "x.capture.h5").string());
  const int steps = reader.index().steps;
  ASSERT_GT(steps, 0);
  std::vector<float> mass(static_cast<std::size_t>(steps) * 8);
  reader.read("steps/evicted_mass", {0, 0, 0}, {steps, 2, 4}, std::span(mass));
  for (const float cell : mass) {
    EXPECT_GT(cell, 0.0f);
    EXPECT_LT(cell, 1.0f);
  }
  std::vector<float> stream(static_cast<std::size_t>(steps) * 2 * 64);
  reader.read("steps/residual_mid", {0, 0, 0}, {steps, 2, 64}, std::span(stream));
  for (const float cell : stream) {
    ASSERT_TRUE(std::isfinite(cell));
  }
}

}  // namespace
}  // namespace kvscope::test
