/// Methods after other people's papers, from a capture and in live runs of the tiny model.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "program.h"

namespace kvscope::test {
namespace {

class Baselines : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace;
    for (const std::string profile : {"full", "window"}) {
      const Result capture =
          run(fmt::format("capture tiny.gguf -f prompt.txt --profile {0} --window 8 -o "
                          "{0}.capture.h5",
                          profile));
      ASSERT_EQ(capture.status, 0) << capture.err;
    }
  }
  static void TearDownTestSuite() {
    delete workspace_;
    workspace_ = nullptr;
  }
  static Result run(const std::string& arguments) { return (*workspace_)(arguments); }

  static Workspace* workspace_;
};

Workspace* Baselines::workspace_ = nullptr;

TEST_F(Baselines, ACaptureOfAllQueriesDecidesThemAll) {
  const Result decide =
      run("decide full.capture.h5 -m expected_attention -m cap -m leverage -m non_causal:chunk=32 "
          "-m compactor -m cake:window=8 -m caote -m chunkkv:window=8 -m finch:window=8 "
          "-m scissorhands:window=16 -m ahakv -m simlayerkv:threshold=0.5,recent=16 "
          "-m 'knorm|spans:size=16' -m 'knorm|d2o' -m 'snapkv:window=8|cascade:window=8' "
          "--keep 0.4 --scores --terms -o decisions --json");
  ASSERT_EQ(decide.status, 0) << decide.err;
  ASSERT_EQ(decide.json()["decisions"].size(), 15u);
  for (const auto& row : decide.json()["decisions"]) {
    const bool sized = !row["method"].get<std::string>().starts_with("simlayerkv");
    EXPECT_TRUE(!sized || row["kept_slots"].get<int>() <= row["budget_slots"].get<int>()) << row;
    EXPECT_EQ(run(fmt::format("check '{}'", row["file"].get<std::string>())).status, 0) << row;
  }
}

TEST_F(Baselines, ASmallerCaptureIsRefusedWithTheOptionThatHelps) {
  for (const auto& [method, fix] :
       {std::pair{"expected_attention", "--profile"}, std::pair{"cap", "--profile"},
        std::pair{"leverage", "--profile"}, std::pair{"non_causal", "--profile"},
        std::pair{"cake:window=8", "--profile"}, std::pair{"caote", "--profile"},
        std::pair{"simlayerkv:threshold=0.5,recent=16", "--window"}}) {
    const Result decide =
        run(fmt::format("decide window.capture.h5 -m {} --keep 0.4 -o x", method));
    EXPECT_EQ(decide.status, 1) << method;
    EXPECT_NE(decide.err.find(fix), std::string::npos) << method << "\n" << decide.err;
  }
  const Result uniform =
      run("decide window.capture.h5 -m cake:window=8,layers=uniform --keep 0.4 -o y");
  EXPECT_EQ(uniform.status, 0) << uniform.err;
}

TEST_F(Baselines, LiveRunsKeepTheQueriesTheyNeed) {
  const Result generate =
      run("generate tiny.gguf -f prompt.txt -m expected_attention -m finch:window=8 -m "
          "compactor:chunk=32 -m scissorhands:window=40,recent=4 --keep 0.5 --new-tokens 6 --json");
  ASSERT_EQ(generate.status, 0) << generate.err;
  ASSERT_EQ(generate.json()["methods"].size(), 4u);
  const auto full = generate.json()["full"]["cache_bytes"].get<double>();
  for (const auto& row : generate.json()["methods"]) {
    EXPECT_LT(row["cache_bytes"].get<double>(), 0.6 * full) << row["method"];
  }
}

/// kvpress's CAMPress and the authors' own loop.
TEST_F(Baselines, CamMergesWhileItDecodes) {
  const Result generate =
      run("generate tiny.gguf -f prompt.txt "
          "-m 'knorm | top_k:heads=mean | cam | decode:trigger=since_cut,every=4' "
          "-m 'streaming_llm | cam:received=newest,beside=recent,part=window,candidates=1 | "
          "decode:every=1' --keep 24 --new-tokens 16 --json");
  ASSERT_EQ(generate.status, 0) << generate.err;
  for (const auto& row : generate.json()["methods"]) {
    EXPECT_GT(row["cuts"].get<int>(), 2) << row["method"];
  }
}

}  // namespace
}  // namespace kvscope::test
