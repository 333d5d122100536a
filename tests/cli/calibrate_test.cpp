#include <fmt/format.h>
#include <gtest/gtest.h>

#include "program.h"
#include "tiny_model.h"

namespace kvscope::test {
namespace {

/// A calibration of the tiny model on a text of some 2,600 tokens, shared by the tests of this
/// file.
class Calibrate : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace;
    std::string corpus;
    for (int line = 0; line < 60; ++line) {
      corpus +=
          fmt::format("Line {} of the corpus, number {}: letters and words.\n", line, line * line);
    }
    workspace_->write("corpus.txt", corpus);
    calibrate_ = (*workspace_)("calibrate tiny.gguf -f corpus.txt -o c.calibration.h5 --json");
  }
  static void TearDownTestSuite() {
    delete workspace_;
    workspace_ = nullptr;
  }
  static Result run(const std::string& arguments) { return (*workspace_)(arguments); }

  static Workspace* workspace_;
  static Result calibrate_;
};

Workspace* Calibrate::workspace_ = nullptr;
Result Calibrate::calibrate_;

TEST_F(Calibrate, WritesASoundFile) {
  ASSERT_EQ(calibrate_.status, 0) << calibrate_.err;
  const auto json = calibrate_.json();
  EXPECT_GT(json["tokens"].get<int>(), 1024);
  EXPECT_GT(json["mean_concentration"].get<double>(), 0.0);
  EXPECT_LE(json["mean_concentration_two_strongest_bands"].get<double>(), 1.0);
  const Result inspect = run("inspect c.calibration.h5 --json");
  ASSERT_EQ(inspect.status, 0) << inspect.err;
  EXPECT_EQ(inspect.json()["kind"], "calibration");
  EXPECT_EQ(inspect.json()["tokens"], json["tokens"]);
  EXPECT_EQ(run("check c.calibration.h5").status, 0);
}

TEST_F(Calibrate, TheLengthOfThePiecesHardlyMatters) {
  const Result pieces =
      run("calibrate tiny.gguf -f corpus.txt --window 700 -o pieces.calibration.h5 --json");
  ASSERT_EQ(pieces.status, 0) << pieces.err;
  EXPECT_EQ(pieces.json()["tokens"], calibrate_.json()["tokens"]);
  EXPECT_NEAR(pieces.json()["mean_concentration"].get<double>(),
              calibrate_.json()["mean_concentration"].get<double>(), 0.05);
}

TEST_F(Calibrate, RefusesWhatItCannotUse) {
  workspace_->write("small.txt", "too little text");
  workspace_->write("nothing.txt", "");
  const std::vector<std::string> before = workspace_->names();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"calibrate tiny.gguf -f small.txt -o x.calibration.h5", "at least 1024"},
      {"calibrate tiny.gguf -f nothing.txt -o x.calibration.h5", "empty"},
      {"calibrate tiny.gguf -f corpus.txt --window 4096 -o x.calibration.h5", "context"},
      {"calibrate tiny.gguf -f corpus.txt -o c.calibration.h5", "--force"},
      {"calibrate tiny.gguf -o x.calibration.h5", "--file"}};
  for (const auto& [arguments, message] : cases) {
    const Result result = run(arguments);
    EXPECT_EQ(result.status, 2) << arguments << "\n" << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << arguments << "\n" << result.err;
  }
  EXPECT_EQ(run("calibrate tiny.gguf -f absent.txt -o x.calibration.h5").status, 1);
  EXPECT_EQ(workspace_->names(), before);
}

TEST_F(Calibrate, MethodsReadIt) {
  const Result capture =
      run("capture tiny.gguf -f prompt.txt --profile full --window 8 -o run.capture.h5");
  ASSERT_EQ(capture.status, 0) << capture.err;
  const Result decide =
      run("decide run.capture.h5 -m triattention:calibration=c.calibration.h5,prompt=evictable -m "
          "alpha:lambda=0,0.5,calibration=c.calibration.h5 -m "
          "q_filters:calibration=c.calibration.h5 --keep 0.4 --scores --terms -o "
          "decisions --json");
  ASSERT_EQ(decide.status, 0) << decide.err;
  ASSERT_EQ(decide.json()["decisions"].size(), 4u);
  for (const auto& row : decide.json()["decisions"]) {
    EXPECT_EQ(row["kept_slots"], row["budget_slots"]);
    const std::string file = row["file"];
    EXPECT_EQ(run(fmt::format("check '{}'", file)).status, 0);
    const bool once = row["method"].get<std::string>().starts_with("q_filters");
    EXPECT_EQ(run(fmt::format("inspect '{}' --json", file)).json()["replay_exact"], once);
  }
}

TEST_F(Calibrate, RefusesBeforeTheModelRuns) {
  write_tiny_model((workspace_->folder() / "other.gguf").string(), {.seed = 8});
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"generate other.gguf -f prompt.txt -m alpha:calibration=c.calibration.h5 --keep 0.3",
       "another model"},
      {"generate tiny.gguf -f prompt.txt -m triattention:calibration=c.calibration.h5 --keep 0.3",
       "none for new tokens"},
      {"generate tiny.gguf -f prompt.txt -m triattention --keep 0.3", "needs a calibration"},
      {"generate tiny.gguf -f prompt.txt -m 'snapkv:window=8|adakv|decode' --keep 0.3",
       "different sizes"},
      {"generate tiny.gguf -f prompt.txt -m "
       "'triattention:prompt=evictable,calibration=c.calibration.h5|diversity' --keep 0.3",
       "per_layer_perhead"}};
  for (const auto& [arguments, message] : cases) {
    const Result result = run(arguments + " --new-tokens 2");
    EXPECT_NE(result.status, 0) << arguments;
    EXPECT_NE(result.err.find(message), std::string::npos) << arguments << "\n" << result.err;
  }
}

TEST_F(Calibrate, GenerateCutsWhileItAnswers) {
  const Result generate =
      run("generate tiny.gguf -f prompt.txt -m full -m "
          "triattention_serving:recent=8,every=4,calibration=c.calibration.h5 -m "
          "alpha:every=4,first_cut=prefill_end,calibration=c.calibration.h5 --keep 24 --new-tokens "
          "20 -o "
          "answers --json");
  ASSERT_EQ(generate.status, 0) << generate.err;
  const auto methods = generate.json()["methods"];
  ASSERT_EQ(methods.size(), 3u);
  const double slot = methods[0]["cache_bytes"].get<double>() /
                      generate.json()["full"]["cache_bytes"].get<double>();
  EXPECT_EQ(slot, 1.0);
  for (std::size_t row = 1; row < 3; ++row) {
    EXPECT_GT(methods[row]["cuts"].get<int>(), 2);
    EXPECT_LT(methods[row]["mean_cache_bytes"].get<double>(),
              0.6 * methods[0]["mean_cache_bytes"].get<double>());
    EXPECT_GE(methods[row]["peak_cache_bytes"].get<double>(),
              methods[row]["mean_cache_bytes"].get<double>());
  }
  for (const std::string& name : workspace_->names()) {
    EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace kvscope::test
