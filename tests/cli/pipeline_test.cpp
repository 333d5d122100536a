#include <fmt/format.h>
#include <gtest/gtest.h>

#include "program.h"

namespace kvscope::test {
namespace {

/// One capture and three decisions, shared by the tests of this file.
class Pipeline : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace;
    capture_ = (*workspace_)(
        "capture tiny.gguf -f prompt.txt --profile full --window 8,16 --new-tokens 3 -o "
        "run.capture.h5 --json");
    decide_ = (*workspace_)(
        "decide run.capture.h5 -m knorm -m snapkv:window=16 -m 'observed_attention|nearest_key' "
        "--keep 0.5 --scores -o decisions --json");
  }
  static void TearDownTestSuite() {
    delete workspace_;
    workspace_ = nullptr;
  }

  static Workspace* workspace_;
  static Result capture_;
  static Result decide_;
};

Workspace* Pipeline::workspace_ = nullptr;
Result Pipeline::capture_;
Result Pipeline::decide_;

TEST_F(Pipeline, CaptureWritesASoundFile) {
  ASSERT_EQ(capture_.status, 0) << capture_.err;
  const auto json = capture_.json();
  EXPECT_EQ(json["profile"], "full");
  EXPECT_GT(json["prompt_tokens"].get<int>(), 60);
  const Result check = (*workspace_)("check run.capture.h5");
  EXPECT_EQ(check.status, 0) << check.out << check.err;
  const Result inspect = (*workspace_)("inspect run.capture.h5 --json");
  ASSERT_EQ(inspect.status, 0) << inspect.err;
  EXPECT_EQ(inspect.json()["prompt_tokens"], json["prompt_tokens"]);
  EXPECT_EQ(inspect.json()["kind"], "capture");
}

TEST_F(Pipeline, CaptureDoesNotOverwrite) {
  const Result again = (*workspace_)("capture tiny.gguf -p hello -o run.capture.h5");
  EXPECT_EQ(again.status, 2);
  EXPECT_NE(again.err.find("--force"), std::string::npos);
}

TEST_F(Pipeline, DecideSpendsTheBudgetToTheSlot) {
  ASSERT_EQ(decide_.status, 0) << decide_.err;
  const auto rows = decide_.json()["decisions"];
  ASSERT_EQ(rows.size(), 3u);
  for (const auto& row : rows) {
    EXPECT_EQ(row["granted_slots"], row["budget_slots"]) << row;
    EXPECT_EQ(row["kept_slots"], row["budget_slots"]) << row;
    EXPECT_FALSE(row["mean_output_error"].is_null());
    EXPECT_TRUE(workspace_->has(row["file"].get<std::string>())) << row;
    const Result check = (*workspace_)(fmt::format("check '{}'", row["file"].get<std::string>()));
    EXPECT_EQ(check.status, 0) << check.out << check.err;
  }
}

TEST_F(Pipeline, DecidingTwiceGivesTheSameBytesWithAnyThreads) {
  const auto one = (*workspace_)(
      "decide run.capture.h5 -m laprox:window=16 --keep 0.3 --threads 1 --metrics none -o "
      "one.decision.h5");
  const auto two = (*workspace_)(
      "decide run.capture.h5 -m laprox:window=16 --keep 0.3 --threads 2 --metrics none -o "
      "two.decision.h5");
  ASSERT_EQ(one.status, 0) << one.err;
  ASSERT_EQ(two.status, 0) << two.err;
  const auto a = (*workspace_)("inspect one.decision.h5 --json").json();
  const auto b = (*workspace_)("inspect two.decision.h5 --json").json();
  EXPECT_EQ(a["kept_slots"], b["kept_slots"]);
}

TEST_F(Pipeline, ReportNamesTheFactInEveryFormat) {
  const std::string files = "run.capture.h5 decisions/*.decision.h5 --find 7421";
  const Result text = (*workspace_)("report " + files);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_NE(text.out.find("7421"), std::string::npos);
  EXPECT_NE(text.out.find("snapkv"), std::string::npos);
  const Result json = (*workspace_)("report " + files + " --json");
  ASSERT_EQ(json.status, 0) << json.err;
  EXPECT_TRUE(json.json().is_object());
  const Result csv = (*workspace_)("report " + files + " --format csv");
  ASSERT_EQ(csv.status, 0) << csv.err;
  EXPECT_NE(csv.out.find(','), std::string::npos);
  const Result html = (*workspace_)("report " + files + " --format html -o report.html");
  ASSERT_EQ(html.status, 0) << html.err;
  EXPECT_NE(workspace_->read("report.html").find("</html>"), std::string::npos);
}

TEST_F(Pipeline, SpectralWritesAFileThatInspectReads) {
  const Result spectral = (*workspace_)("spectral tiny.gguf -o tiny.spectrum.h5");
  ASSERT_EQ(spectral.status, 0) << spectral.err;
  const Result inspect = (*workspace_)("inspect tiny.spectrum.h5 --json");
  ASSERT_EQ(inspect.status, 0) << inspect.err;
  EXPECT_EQ(inspect.json()["kind"], "spectrum");
}

TEST_F(Pipeline, GenerateComparesWithTheFullCache) {
  const Result run = (*workspace_)(
      "generate tiny.gguf -f prompt.txt --question 'Which code?' -m full -m knorm --keep 0.2 "
      "--new-tokens 6 --json -o answers");
  ASSERT_EQ(run.status, 0) << run.err;
  const auto json = run.json();
  ASSERT_EQ(json["methods"].size(), 2u);
  const auto& full = json["methods"][0];
  EXPECT_EQ(full["first_divergence"], -1);
  EXPECT_EQ(full["mean_next_token_kl_nats"], 0.0);
  EXPECT_EQ(full["cache_bytes"], json["full"]["cache_bytes"]);
  const auto& knorm = json["methods"][1];
  EXPECT_GT(knorm["mean_next_token_kl_nats"].get<double>(), 0.0);
  EXPECT_LT(knorm["cache_bytes"].get<double>(), 0.3 * json["full"]["cache_bytes"].get<double>());
  EXPECT_TRUE(workspace_->has("answers/answers.json"));
}

TEST_F(Pipeline, MethodsListsAndExplains) {
  const Result all = (*workspace_)("methods --json");
  ASSERT_EQ(all.status, 0) << all.err;
  EXPECT_GT(all.json().size(), 15u);
  const Result one = (*workspace_)("methods snapkv");
  ASSERT_EQ(one.status, 0);
  EXPECT_NE(one.out.find("window=64"), std::string::npos);
}

TEST_F(Pipeline, NothingHalfWrittenStays) {
  for (const std::string& name : workspace_->names()) {
    EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace kvscope::test
