#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

#include "kvscope/storage/capture_reader.h"
#include "program.h"

namespace kvscope::test {
namespace {

/// `kvscope ARGUMENTS` in the background of `workspace`.
pid_t start(const Workspace& workspace, const std::string& arguments) {
  const std::string command =
      fmt::format("cd '{}' && exec '{}/bin/kvscope' {} >/dev/null 2>.stderr",
                  workspace.folder().string(), KVSCOPE_BINARY_DIR, arguments);
  const pid_t child = fork();
  if (child == 0) {
    execl("/bin/bash", "bash", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  return child;
}

/// Waits until a file whose name ends in `end` appears; false after 20 s.
bool wait_for(const Workspace& workspace, const std::string& end) {
  for (int turn = 0; turn < 4000; ++turn) {
    const auto names = workspace.names();
    if (std::any_of(names.begin(), names.end(),
                    [&](const std::string& name) { return name.ends_with(end); })) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

int wait_status(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

const std::string endless = "capture tiny.gguf -p word --profile full --new-tokens 1900 ";

constexpr int complete = 4;  // the state of a capture whose run ended by itself

/// Starts a live capture to `name` and sends it `signal` some time after the file appears, while it
/// is under way: a run that was faster than that is done again and given half the time. Its
/// process, or -1 if none could be caught.
pid_t caught(const Workspace& workspace, const std::string& arguments, const std::string& name,
             int signal, std::chrono::microseconds after) {
  for (int attempt = 0; attempt < 20; ++attempt, after /= 2) {
    const pid_t child = start(workspace, endless + arguments + "--live -o " + name);
    if (!wait_for(workspace, name)) {
      return -1;
    }
    std::this_thread::sleep_for(after);
    kill(child, signal);
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WSTOPPED | WNOWAIT);
    if ((info.si_code == CLD_STOPPED || info.si_code == CLD_KILLED) &&
        CaptureReader((workspace.folder() / name).string()).index().state != complete) {
      return child;
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    std::filesystem::remove(workspace.folder() / name);
  }
  return -1;
}

TEST(CaptureFaults, InterruptedInTheMiddleLeavesNothing) {
  Workspace workspace;
  const std::vector<std::string> before = workspace.names();
  const pid_t child = start(workspace, endless + "-o x.capture.h5");
  ASSERT_TRUE(wait_for(workspace, ".tmp"));  // the run is under way
  kill(child, SIGINT);
  EXPECT_EQ(wait_status(child), 1);
  EXPECT_NE(workspace.read(".stderr").find("error:"), std::string::npos);
  std::filesystem::remove(workspace.folder() / ".stderr");
  EXPECT_EQ(workspace.names(), before);
}

TEST(CaptureFaults, InterruptedLiveRunKeepsItsSteps) {
  Workspace workspace;
  // Stopped, so that it is under way for as long as the others take.
  const pid_t child =
      caught(workspace, "", "x.capture.h5", SIGSTOP, std::chrono::milliseconds(200));
  ASSERT_GT(child, 0);
  const Result meanwhile = workspace("inspect x.capture.h5 --json");
  ASSERT_EQ(meanwhile.status, 0) << meanwhile.err;
  EXPECT_EQ(workspace(endless + "--force -o x.capture.h5").status, 2);  // somebody has it
  kill(child, SIGINT);
  kill(child, SIGCONT);
  EXPECT_EQ(wait_status(child), 1);
  const Result after = workspace("inspect x.capture.h5 --json");
  ASSERT_EQ(after.status, 0) << after.err;
  EXPECT_EQ(after.json()["state_name"], "stopped by the user");
  EXPECT_GE(after.json()["steps"], meanwhile.json()["steps"]);
  EXPECT_NE(after.json()["incomplete"].get<std::string>().find("kvscope recover"),
            std::string::npos);
  const Result saved = workspace("recover x.capture.h5 -o saved.capture.h5 --json");
  ASSERT_EQ(saved.status, 0) << saved.err;
  EXPECT_EQ(saved.json()["steps"], after.json()["steps"]);
  const Result decide = workspace("decide saved.capture.h5 -m knorm --keep 0.5 -o d.decision.h5");
  EXPECT_EQ(decide.status, 0) << decide.err;
}

TEST(CaptureFaults, KilledLiveRunIsReadableAndRecovered) {
  Workspace workspace;
  for (int round = 0; round < 5; ++round) {
    const std::string name = fmt::format("x{}.capture.h5", round);
    const pid_t child = caught(workspace, "", name, SIGKILL, std::chrono::milliseconds(40 * round));
    ASSERT_GT(child, 0);
    EXPECT_EQ(wait_status(child), 128 + SIGKILL);
    const Result inspect = workspace(fmt::format("inspect {} --json", name));
    ASSERT_EQ(inspect.status, 0) << inspect.err;
    EXPECT_TRUE(inspect.json().contains("incomplete"));
    const Result saved = workspace(fmt::format("recover {0} -o s{0} --json", name));
    ASSERT_EQ(saved.status, 0) << saved.err;
    EXPECT_EQ(saved.json()["steps"], inspect.json()["steps"]);
    EXPECT_EQ(workspace("check s" + name).status, 3);  // readable, and says it is incomplete
  }
}

std::vector<float> rows_of(const CaptureReader& reader, const std::string& name) {
  std::vector<std::int64_t> extent = reader.shape(name);
  extent[0] = reader.index().steps;
  std::vector<float> values(std::accumulate(extent.begin(), extent.end(), std::size_t{1},
                                            [](std::size_t product, std::int64_t size) {
                                              return product * static_cast<std::size_t>(size);
                                            }));
  reader.read(name, std::vector<std::int64_t>(extent.size(), 0), extent, std::span(values));
  return values;
}

/// Hook points, rows and chosen steps follow the commits like every other series.
TEST(CaptureFaults, KilledLiveRunHoldsHookPointsOfEveryCommittedStep) {
  Workspace workspace;
  int with_steps = 0;
  for (int round = 0; round < 8; ++round) {
    const std::string name = fmt::format("x{}.capture.h5", round);
    const pid_t child = caught(workspace,
                               "--hooks residual_out,logits,attention_output --steps every:3 "
                               "--reductions attention_row,head_output_norm --snapshots every:64 ",
                               name, SIGKILL, std::chrono::milliseconds(100 * round));
    ASSERT_GT(child, 0);
    EXPECT_EQ(wait_status(child), 128 + SIGKILL);
    const CaptureReader reader((workspace.folder() / name).string());
    const int steps = reader.index().steps;
    with_steps += steps > 0 ? 1 : 0;
    for (int row = 0; row < steps; ++row) {
      ASSERT_EQ(reader.index().step_numbers[static_cast<std::size_t>(row)], 3 * (row + 1));
    }
    ASSERT_EQ(workspace(fmt::format("recover {0} -o s{0}", name)).status, 0);
    const CaptureReader saved((workspace.folder() / ("s" + name)).string());
    ASSERT_EQ(saved.index().steps, steps);
    for (const char* series : {"steps/residual_out", "steps/logits", "steps/attention_output",
                               "steps/head_output_norm", "steps/entropy"}) {
      const auto values = rows_of(reader, series);
      for (const float value : values) {
        ASSERT_TRUE(std::isfinite(value)) << series;
      }
      ASSERT_EQ(values, rows_of(saved, series)) << series;
    }
  }
  EXPECT_GT(with_steps, 2);
}

TEST(CaptureFaults, LiveAndBatchHoldTheSame) {
  Workspace workspace;
  const std::string arguments =
      "capture tiny.gguf -f prompt.txt --profile full --window 8 --new-tokens 5 --threads 1 ";
  ASSERT_EQ(workspace(arguments + "-o a.capture.h5").status, 0);
  const Result live = workspace(arguments + "--live -o b.capture.h5");
  ASSERT_EQ(live.status, 0) << live.err;
  EXPECT_EQ(workspace("check b.capture.h5").status, 0);
  const auto a = workspace("inspect a.capture.h5 --json").json();
  const auto b = workspace("inspect b.capture.h5 --json").json();
  EXPECT_EQ(a["parts"], b["parts"]);
  EXPECT_EQ(a["steps"], b["steps"]);
  EXPECT_FALSE(b.contains("incomplete"));
  EXPECT_EQ(workspace("recover b.capture.h5 -o c.capture.h5").status, 2);  // nothing to recover
}

/// A model that computes NaN: the capture says where first and keeps what there is; the run fails
/// unless it is told to go on.
TEST(CaptureFaults, NumbersThatAreNotFiniteAreLocated) {
  const Workspace workspace;
  const auto spoil = [&](double share) {  // a weight of W_O in layer 0, or in layer 1, the last
    std::string model = workspace.read("tiny.gguf");
    const float nan = std::nanf("");
    const auto at = static_cast<std::size_t>(share * static_cast<double>(model.size())) / 32 * 32;
    std::memcpy(model.data() + at, &nan, sizeof nan);
    workspace.write("nan.gguf", model);
  };
  const std::string command =
      "capture nan.gguf -f prompt.txt --profile window --window 8 --new-tokens 3 --force ";
  spoil(0.37);
  const Result inside = workspace(command + "-o stopped.capture.h5");
  EXPECT_EQ(inside.status, 1) << inside.err;
  EXPECT_NE(inside.err.find("first in layer 1, queries or keys, prefill"), std::string::npos)
      << inside.err;
  EXPECT_NE(workspace("inspect stopped.capture.h5").out.find("done"), std::string::npos)
      << "what was computed is kept";
  spoil(0.75);
  const Result behind = workspace(command + "-o stopped.capture.h5");
  EXPECT_EQ(behind.status, 1);
  EXPECT_NE(behind.err.find("first in logits, prefill"), std::string::npos) << behind.err;
  EXPECT_NE(behind.err.find("--keep-going"), std::string::npos);
  const Result told = workspace(command + "--keep-going -o told.capture.h5 --json");
  EXPECT_EQ(told.status, 0) << told.err;
  EXPECT_NE(told.err.find("not finite"), std::string::npos) << "it still warns";
}

TEST(CaptureFaults, LargeCapturesAskFirst) {
  Workspace workspace;
  std::string ids;
  for (int token = 0; token < 100000; ++token) {
    ids += "5 ";
  }
  workspace.write("ids.txt", ids);
  const std::vector<std::string> before = workspace.names();
  const Result large = workspace(
      "capture tiny.gguf --token-ids ids.txt --allow-beyond-context --attention-maps -o "
      "x.capture.h5");
  EXPECT_EQ(large.status, 2) << large.err;
  EXPECT_NE(large.err.find("--yes"), std::string::npos) << large.err;
  EXPECT_EQ(workspace.names(), before);
  const Result maps =
      workspace("capture tiny.gguf -f prompt.txt --attention-maps --layers 0 -o x.capture.h5");
  EXPECT_EQ(maps.status, 0) << maps.err;
  EXPECT_NE(maps.err.find("price:"), std::string::npos) << maps.err;
  const Result profile = workspace("capture tiny.gguf -f prompt.txt -o y.capture.h5");
  EXPECT_NE(profile.err.find("profile: qkv"), std::string::npos) << profile.err;
}

}  // namespace
}  // namespace kvscope::test
