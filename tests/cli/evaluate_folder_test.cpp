/// `evaluate -o DIR`: one result a file, killed and gone on with.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>

#include "needle_model.h"
#include "program.h"

namespace kvscope::test {
namespace {

namespace fs = std::filesystem;

/// Two models, two prompts, three methods: every grid here has them.
class EvaluateFolder : public testing::Test {
 protected:
  EvaluateFolder() {
    write_needle_model((workspace_.folder() / "needle.gguf").string());
    std::string text;
    for (int line = 0; line < 6; ++line) {
      text += "abcdefghijklm\n";
    }
    workspace_.write("text.txt", text);
    write_plan("7");
  }
  void write_plan(const std::string& needle) const {
    workspace_.write("plan.json", R"({"format": "kvscope.plan",
      "models": ["needle.gguf", "tiny.gguf"], "methods": ["knorm", "keydiff", "streaming_llm"], "prompts": [
      {"name": "first", "file": "text.txt", "needle": ")" + needle + R"(", "depth": 0.4},
      {"name": "second", "file": "text.txt", "needle": "3", "depth": 0.9}]})");
  }
  static std::string arguments(const std::string& more) {
    return "evaluate plan.json --plain --new-tokens 2 --threads 1 --format json " + more;
  }
  Result run(const std::string& more) const { return workspace_(arguments(more)); }

  /// Files of the finished results in DIR/cells and when they were written.
  std::map<std::string, fs::file_time_type> cells(const std::string& folder) const {
    std::map<std::string, fs::file_time_type> found;
    std::error_code missing;
    for (const auto& entry :
         fs::directory_iterator(workspace_.folder() / folder / "cells", missing)) {
      if (entry.path().extension() == ".json") {
        found[entry.path().filename().string()] = entry.last_write_time();
      }
    }
    return found;
  }

  /// The table without its times.
  nlohmann::json table(const std::string& folder) const {
    auto json = nlohmann::json::parse(workspace_.read(folder + "/evaluation.json"));
    for (const char* list : {"runs", "means"}) {
      for (auto& row : json[list]) {
        row.erase("seconds");
        row.erase("full_prefill_seconds");
      }
    }
    return json;
  }

  /// Names of cells that were written anew since `before`.
  std::set<std::string> rewritten(const std::string& folder,
                                  const std::map<std::string, fs::file_time_type>& before) const {
    std::set<std::string> names;
    for (const auto& [name, time] : cells(folder)) {
      const auto old = before.find(name);
      if (old == before.end() || old->second != time) {
        names.insert(name);
      }
    }
    return names;
  }

  const Workspace workspace_;
};

TEST_F(EvaluateFolder, HoldsOneResultAFileAndTheTable) {
  const Result result = run("--keep 0.3,0.5 -o out");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(cells("out").size(), 24U);
  const nlohmann::json json = table("out");
  ASSERT_EQ(json["runs"].size(), 24U);
  EXPECT_EQ(json["means"].size(), 12U) << "over the prompts, for each model";
  EXPECT_EQ(json["runs"][0]["model"], "needle");
  EXPECT_EQ(json["runs"][23]["model"], "tiny");
  const auto before = cells("out");
  const Result again = run("--keep 0.3,0.5 -o out");
  ASSERT_EQ(again.status, 0) << again.err;
  EXPECT_NE(again.err.find("6 of 6 results were there already"), std::string::npos) << again.err;
  EXPECT_TRUE(rewritten("out", before).empty());
  const Result text = workspace_(
      "evaluate plan.json --plain --new-tokens 2 --threads 1 --keep 0.3,0.5 --format markdown -o "
      "out");
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(rewritten("out", before).empty()) << "another format of the same results";
  EXPECT_TRUE(workspace_.read("out/evaluation.md").starts_with("| model | keep | method |"));
}

TEST_F(EvaluateFolder, KilledAndStartedAgainItGoesOn) {
  const std::string keeps = "--keep 0.2,0.3,0.4,0.5,0.6,0.7 ";
  ASSERT_EQ(run(keeps + "-o whole").status, 0);
  ASSERT_EQ(cells("whole").size(), 72U);
  int interrupted = 0;
  for (const std::size_t at : {1, 20, 45}) {
    const std::string folder = fmt::format("killed{}", at);
    const std::string command =
        fmt::format("cd '{}' && exec '{}/bin/kvscope' {} >/dev/null 2>&1",
                    workspace_.folder().string(), KVSCOPE_BINARY_DIR,
                    arguments(keeps + "-o " + folder));
    const pid_t child = fork();
    if (child == 0) {
      execl("/bin/bash", "bash", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    for (int turn = 0; turn < 60000 && cells(folder).size() < at; ++turn) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    const auto before = cells(folder);
    ASSERT_GE(before.size(), at);
    interrupted += WIFSIGNALED(status) && before.size() < 72 ? 1 : 0;
    for (const auto& [name, time] : before) {
      EXPECT_TRUE(nlohmann::json::accept(workspace_.read(folder + "/cells/" + name))) << name;
    }
    std::ofstream(workspace_.folder() / folder / "cells" / "left.json.1.tmp") << "{";
    const Result result = run(keeps + "-o " + folder);
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(rewritten(folder, before).size(), 72 - before.size()) << "finished ones stay";
    EXPECT_FALSE(workspace_.has(folder + "/cells/left.json.1.tmp"));
    EXPECT_EQ(table(folder).dump(), table("whole").dump());
  }
  EXPECT_GE(interrupted, 1) << "no run was killed before its end: give the grid more cells";
}

TEST_F(EvaluateFolder, OnlyWhatChangedIsRunAgain) {
  ASSERT_EQ(run("--keep 0.3 -o out").status, 0);
  auto before = cells("out");
  ASSERT_EQ(run("--keep 0.3,0.6 -o out").status, 0);
  EXPECT_EQ(rewritten("out", before).size(), 12U) << "the new budget";
  before = cells("out");
  write_plan("8");
  ASSERT_EQ(run("--keep 0.3 -o out").status, 0);
  std::set<std::string> changed = rewritten("out", before);
  EXPECT_EQ(changed.size(), 6U) << "the first prompt, on both models";
  for (const std::string& name : changed) {
    EXPECT_NE(name.find(".first."), std::string::npos) << name;
  }
  before = cells("out");
  workspace_.write("out/cells/" + before.begin()->first, "{\"format\": \"kvscope.cell\"");
  ASSERT_EQ(run("--keep 0.3 -o out").status, 0);
  changed = rewritten("out", before);
  EXPECT_EQ(changed, std::set<std::string>{before.begin()->first}) << "a damaged file";
  before = cells("out");
  ASSERT_EQ(run("--keep 0.3 -o out --cut-after prompt --dtype bfloat16").status, 0);
  EXPECT_EQ(rewritten("out", before).size(), 12U) << "other options";
  before = cells("out");
  ASSERT_EQ(run("--keep 0.3 -o out --dtype bfloat16 --force").status, 0);
  EXPECT_EQ(rewritten("out", before).size(), 12U) << "told to";
}

TEST_F(EvaluateFolder, AFileHoldsTheTableAlone) {
  const Result result = run("--keep 0.3 -o table.json");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(workspace_.read("table.json"))["runs"].size(), 12U);
  EXPECT_EQ(run("--keep 0.3 -o table.json").status, 2) << "it is there";
  const Result calibrated = workspace_("evaluate plan.json --calibration c.h5 -o out");
  EXPECT_EQ(calibrated.status, 2);
  EXPECT_NE(calibrated.err.find("one calibration serves one model"), std::string::npos)
      << calibrated.err;
}

}  // namespace
}  // namespace kvscope::test
