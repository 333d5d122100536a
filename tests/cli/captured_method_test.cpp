/// `capture --method`: the decode steps of a compressed run, and the decision beside it.
#include <gtest/gtest.h>

#include <cstring>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "program.h"

namespace kvscope::test {
namespace {

constexpr int steps = 5;

struct Captured {
  std::string capture;
  std::string decision;
};

class CapturedMethod : public testing::Test {
 protected:
  Captured captured(const std::string& name, const std::string& arguments) {
    const std::string file = name + ".capture.h5";
    const Result run = workspace_("capture tiny.gguf -f prompt.txt --profile full --window 8 " +
                                  arguments + " --new-tokens 5 --json -o " + file);
    EXPECT_EQ(run.status, 0) << run.err;
    return {file, run.status == 0 ? run.json().value("decision", "") : ""};
  }
  std::string path(const std::string& name) const { return (workspace_.folder() / name).string(); }

  Workspace workspace_;
};

std::vector<float> whole(const CaptureReader& reader, const std::string& dataset) {
  const std::vector<std::int64_t> count = reader.shape(dataset);
  std::int64_t size = 1;
  for (const std::int64_t extent : count) {
    size *= extent;
  }
  std::vector<float> values(static_cast<std::size_t>(size));
  reader.read(dataset, std::vector<std::int64_t>(count.size(), 0), count, std::span(values));
  return values;
}

TEST_F(CapturedMethod, ABudgetOfEverythingIsTheFullRunBitForBit) {
  const Captured full = captured("full", "");
  const Captured cut = captured("cut", "--method snapkv:window=8 --keep 1.0");
  const CaptureReader a(path(full.capture));
  const CaptureReader b(path(cut.capture));
  ASSERT_EQ(a.datasets(), b.datasets());
  int compared = 0;
  for (const std::string& dataset : a.datasets()) {
    const bool number = dataset.starts_with("steps/") || dataset.starts_with("reduce/") ||
                        dataset.starts_with("layers/");
    if (!number || dataset.ends_with("_ns")) {
      continue;
    }
    const std::vector<float> x = whole(a, dataset);
    const std::vector<float> y = whole(b, dataset);
    ASSERT_EQ(x.size(), y.size());
    EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size() * sizeof(float)), 0) << dataset;
    ++compared;
  }
  EXPECT_GT(compared, 20);
}

/// Slot tables: at every step each head holds what the decision left it, and sees nothing else.
void expect_slots_follow(const CaptureReader& reader, const Decision& decision) {
  const CaptureIndex& index = reader.index();
  const int layers = index.shape.layers;
  const int heads = index.shape.kv_heads;
  const int group = index.shape.group_size();
  const std::vector<float> slots = whole(reader, "steps/cache_slots");
  const std::vector<float> top = whole(reader, "steps/top_key");
  const auto keys = static_cast<std::size_t>(reader.shape("steps/top_key").back());
  ASSERT_EQ(index.steps, steps);
  for (int step = 1; step <= steps; ++step) {
    for (int layer = 0; layer < layers; ++layer) {
      const LayerDecision& part = decision.layers[static_cast<std::size_t>(layer)];
      for (int head = 0; head < heads; ++head) {
        const auto held = [&](int token) {
          if (token >= part.tokens) {
            return token < index.prompt_tokens + step;
          }
          const std::uint32_t removed = part.removed_at[part.cell(head, token)];
          return removed == alive || decision.events[removed].step >= step;
        };
        int count = 0;
        for (int token = 0; token < index.prompt_tokens + step; ++token) {
          count += held(token) ? 1 : 0;
        }
        const auto row = static_cast<std::size_t>((step - 1) * layers + layer);
        EXPECT_EQ(slots[row * static_cast<std::size_t>(heads) + static_cast<std::size_t>(head)],
                  static_cast<float>(count));
        const auto query_head = static_cast<std::size_t>(head * group);
        const auto first =
            (row * static_cast<std::size_t>(index.shape.query_heads) + query_head) * keys;
        for (std::size_t key = first; key < first + keys && top[key] >= 0; ++key) {
          EXPECT_TRUE(held(static_cast<int>(top[key]))) << step << " " << layer << " " << top[key];
        }
      }
    }
  }
}

TEST_F(CapturedMethod, SlotTablesFollowCutsAndMerges) {
  int number = 0;
  for (const char* text : {"'snapkv:window=8|adakv' --keep 0.3", "'tova|decode:every=1' --keep 0.3",
                           "'knorm|nearest_key' --keep 0.3", "asymkv:timing=budget --keep 0.5",
                           "kvslimmer:variant=code,timing=budget --keep 0.5"}) {
    SCOPED_TRACE(text);
    const Captured run =
        captured("run" + std::to_string(number++), std::string("--method ") + text);
    ASSERT_FALSE(run.decision.empty());
    for (const std::string& file : {run.capture, run.decision}) {
      const Result check = workspace_("check '" + file + "'");
      EXPECT_EQ(check.status, 0) << check.out << check.err;
    }
    const CaptureReader reader(path(run.capture));
    const Decision decision = read_decision(path(run.decision));
    EXPECT_FALSE(decision.replayed);
    EXPECT_EQ(reader.index().method, decision.method);
    EXPECT_EQ(reader.index().budget, decision.keep);
    EXPECT_EQ(reader.index().capture_hash, decision.capture_hash);
    expect_slots_follow(reader, decision);
    const Result report = workspace_("report " + run.capture + " '" + run.decision + "' --json");
    ASSERT_EQ(report.status, 0) << report.err;
  }
}

TEST_F(CapturedMethod, RefusesBeforeAnyWork) {
  const std::string start = "capture tiny.gguf -f prompt.txt -o x.capture.h5 --method ";
  for (const char* rest :
       {"snapkv", "asymkv --keep 0.2", "asymkv:timing=budget,chunk=2,sink=4 --keep 0.2",
        "asymkv:sink=40,cache=40 --keep 0.2", "diversity:lambda=0,1 --keep 0.2",
        "no_such_method --keep 0.2", "snapkv:window=64 --keep 8"}) {
    const Result run = workspace_(start + rest);
    EXPECT_NE(run.status, 0) << rest;
    EXPECT_FALSE(run.err.empty()) << rest;
    EXPECT_FALSE(workspace_.has("x.capture.h5")) << rest;
  }
  const Result late = workspace_(start + "asymkv --keep 0.2");
  EXPECT_NE(late.err.find("timing=budget"), std::string::npos) << late.err;
}

}  // namespace
}  // namespace kvscope::test
