#include <gtest/gtest.h>

#include <cmath>

#include "needle_model.h"
#include "program.h"

namespace kvscope::test {
namespace {

/// A folder with the hand-written needle model, whose answer is known, and prompts for it.
class Evaluate : public testing::Test {
 protected:
  Evaluate() {
    write_needle_model((workspace_.folder() / "needle.gguf").string());
    std::string text;
    for (int line = 0; line < 6; ++line) {
      text += "abcdefghijklm\n";
    }
    workspace_.write("text.txt", text);
    write_plan(
        R"({"name": "seven", "file": "text.txt", "needle": "7", "question": "?", "answer": "7", "depth": 0.4})");
  }
  void write_plan(const std::string& prompt, const std::string& format = "kvscope.plan") const {
    workspace_.write("plan.json",
                     R"({"format": ")" + format + R"(", "prompts": [)" + prompt + "]}");
  }
  Result run(const std::string& arguments) const {
    return workspace_(
        "evaluate plan.json --model needle.gguf --plain --cut-after context --new-tokens 2 " +
        arguments);
  }
  const Workspace workspace_;
};

const char* const methods = "-m full -m streaming_llm:sinks=4 -m keydiff -m knorm --keep 0.3 ";

TEST_F(Evaluate, TheAnswerFollowsTheNeedle) {
  const Result result = run(std::string(methods) + "--json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto json = result.json();
  EXPECT_EQ(json["format"], "kvscope.evaluation");
  ASSERT_EQ(json["runs"].size(), 4u);
  const auto& full = json["runs"][0];
  EXPECT_EQ(full["needle_kept"], 1.0);
  EXPECT_EQ(full["answered"], true);
  EXPECT_EQ(full["same_answer"], true);
  EXPECT_NEAR(full["next_token_kl_nats"].get<double>(), 0, 1e-9);
  EXPECT_EQ(full["output_error"], 0.0);
  EXPECT_EQ(full["mean_cache_bytes"], full["full_cache_bytes"]);
  const auto& streaming = json["runs"][1];
  EXPECT_EQ(streaming["needle_kept"], 0.0) << "the middle of the text is gone";
  EXPECT_EQ(streaming["needle_lost"], 1.0);
  EXPECT_EQ(streaming["answered"], false);
  EXPECT_GT(streaming["next_token_kl_nats"].get<double>(), 1);
  EXPECT_GT(streaming["output_error"].get<double>(), 0.01);
  const auto& keydiff = json["runs"][2];
  EXPECT_GE(keydiff["needle_kept"].get<double>(), 0.5) << "its key points away from the others";
  EXPECT_EQ(keydiff["answered"], true);
  const auto& knorm = json["runs"][3];
  EXPECT_LE(knorm["needle_kept"].get<double>(), 0.5) << "its key is the longest there";
  EXPECT_EQ(knorm["answered"], false);
  for (const auto& entry : json["runs"]) {
    EXPECT_NEAR(entry["needle_kept"].get<double>() + entry["needle_merged"].get<double>() +
                    entry["needle_lost"].get<double>(),
                1, 1e-12);
  }
}

TEST_F(Evaluate, MergedNeedlesAreToldFromLostOnes) {
  workspace_.write("prompt.json", R"({"format": "kvscope.plan", "prompts": [
      {"name": "keeper", "file": "prompt.txt", "needle": "7421"}]})");
  const Result result = workspace_(
      "evaluate prompt.json --model tiny.gguf --plain --new-tokens 2 --keep 0.3 --json "
      "-m 'streaming_llm:sinks=4|nearest_key' -m asymkv:timing=budget "
      "-m asymkv:timing=budget,merger=chain");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto runs = result.json()["runs"];
  EXPECT_GT(runs[0]["needle_merged"].get<double>(), 0.5) << runs[0];
  EXPECT_EQ(runs[0]["dropped_share"], 0.0) << "nearest_key drops nothing";
  EXPECT_GT(runs[1]["dropped_share"].get<double>(), 0.1) << "overlapping pairs do";
  EXPECT_EQ(runs[2]["dropped_share"], 0.0) << "chains do not";
  EXPECT_EQ(runs[2]["needle_lost"], 0.0);
}

TEST_F(Evaluate, UnmatchedMemoryIsMarkedUnlessTold) {
  const Result text = run(methods);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_NE(text.out.find("100.0 % (100.6 %) !"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("not comparable"), std::string::npos);
  const Result told = run(std::string(methods) + "--any-memory");
  EXPECT_EQ(told.out.find("not comparable"), std::string::npos);
  const Result json = run(std::string(methods) + "--json");
  EXPECT_EQ(json.json()["means"][0]["memory_matched"], false);
  EXPECT_EQ(json.json()["means"][1]["memory_matched"], true);
}

TEST_F(Evaluate, MeansAndFormats) {
  write_plan(
      R"({"name": "seven", "file": "text.txt", "needle": "7", "question": "?", "answer": "7", "depth": 0.4},
         {"name": "three", "file": "text.txt", "needle": "3", "question": "?", "answer": "3", "depth": 0.99})");
  const Result result = run("-m streaming_llm:sinks=4 --keep 0.1,0.3 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto json = result.json();
  ASSERT_EQ(json["means"].size(), 2u);
  ASSERT_EQ(json["runs"].size(), 4u);
  EXPECT_EQ(json["means"][1]["answers"], "1/2") << "the newest tokens hold the second needle";
  EXPECT_NEAR(json["means"][1]["next_token_kl_nats"].get<double>(),
              (json["runs"][1]["next_token_kl_nats"].get<double>() +
               json["runs"][3]["next_token_kl_nats"].get<double>()) /
                  2,
              1e-12);
  const Result csv = run("-m streaming_llm --keep 0.3 --format csv");
  EXPECT_TRUE(csv.out.starts_with("prompt,prompt_tokens,method,keep,next_token_kl_nats,"))
      << csv.out;
  const Result markdown = run("-m streaming_llm --keep 0.3 --format markdown -o table.md");
  EXPECT_EQ(markdown.status, 0) << markdown.err;
  EXPECT_TRUE(workspace_.read("table.md").starts_with("| keep | method | KL |"));
}

TEST_F(Evaluate, APlanMayNameEverything) {
  workspace_.write("plan.json", R"({"format": "kvscope.plan", "model": "needle.gguf",
      "methods": ["knorm", "keydiff"], "keeps": ["0.2", "0.5"], "prompts": [
      {"name": "seven", "file": "text.txt", "needle": "7", "depth": 0.4}]})");
  const Result result = workspace_("evaluate plan.json --plain --new-tokens 1 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  ASSERT_EQ(result.json()["runs"].size(), 4u);
  EXPECT_EQ(result.json()["runs"][3]["method"], "keydiff");
  EXPECT_EQ(result.json()["runs"][3]["keep"], "0.5");
  EXPECT_EQ(workspace_("evaluate plan.json --keep 0.3 -m knorm --plain --new-tokens 1 --json")
                .json()["runs"]
                .size(),
            1u)
      << "the command line goes first";
}

TEST_F(Evaluate, BadPlansAreRefusedByName) {
  const auto refused = [&](const std::string& prompt, const std::string& message) {
    write_plan(prompt);
    const Result result = run("-m knorm --keep 0.3 -o out.json");
    EXPECT_NE(result.status, 0) << prompt;
    EXPECT_NE(result.err.find(message), std::string::npos) << prompt << "\n" << result.err;
    EXPECT_FALSE(workspace_.has("out.json"));
  };
  refused(R"({"name": "x", "file": "text.txt", "needle": "9"})", "prompt 'x'");
  refused(R"({"name": "x", "file": "text.txt", "needle": "9", "question": "?", "depth": 2})",
          "depth 2");
  refused(R"({"name": "x", "file": "text.txt", "needle": ""})", "the needle is empty");
  refused(R"({"name": "x", "file": "none.txt", "needle": "9"})", "none.txt");
  refused(R"({"file": "text.txt", "needle": "9"})", "'name' not found");
  refused("", "holds no prompts");
  refused("{", "cannot be read");
  write_plan("", "other");
  EXPECT_NE(run("-m knorm").err.find("not a plan of an evaluation"), std::string::npos);
  write_plan(R"({"name": "x", "file": "text.txt", "needle": "abc"})");
  const Result uncalibrated = run("--keep 0.3");
  EXPECT_EQ(uncalibrated.status, 2);
  EXPECT_NE(uncalibrated.err.find("--calibration"), std::string::npos) << uncalibrated.err;
  const Result textless = run("--keep 0.3 --calibration needle.calibration.h5");
  EXPECT_EQ(textless.status, 2);
  EXPECT_NE(textless.err.find("no text to calibrate on"), std::string::npos) << textless.err;
  const Result modelless = workspace_("evaluate plan.json -m knorm");
  EXPECT_EQ(modelless.status, 2);
  EXPECT_NE(modelless.err.find("--model"), std::string::npos) << modelless.err;
}

}  // namespace
}  // namespace kvscope::test
