#include <fmt/format.h>
#include <gtest/gtest.h>

#include <sstream>

#include "program.h"

namespace kvscope::test {
namespace {

const std::string run = "--window 4,8 --threads 1 ";

std::string differences(const Result& result) {
  std::string names;
  const nlohmann::json json = result.json();  // outlives the loop over its list
  for (const auto& found : json["differences"]) {
    names += found["what"].get<std::string>() + "\n";
  }
  return names;
}

/// What is cut out of a large capture is what a small one would have held.
TEST(Extract, EqualsACaptureMadeThatWay) {
  const Workspace workspace;
  const std::string more =
      "--sample-queries 3 --group-reduce mean,max --hooks logits_attention,keys_gradient "
      "--hook-tokens last:3 ";
  ASSERT_EQ(workspace("capture tiny.gguf -f prompt.txt --profile full --top-keys 3 --pooled 8 "
                      "--new-tokens 5 " +
                      more + run + "-o whole.capture.h5")
                .status,
            0);
  ASSERT_EQ(workspace("capture tiny.gguf -f prompt.txt --profile scores --top-keys 3 --pooled 8 "
                      "--layers 1 --new-tokens 2 " +
                      more + run + "-o direct.capture.h5")
                .status,
            0);
  const Result cut = workspace(
      "extract whole.capture.h5 --layers 1 --steps 2 --profile scores -o cut.capture.h5 --json");
  ASSERT_EQ(cut.status, 0) << cut.err;
  EXPECT_LT(cut.json()["bytes"], cut.json()["from_bytes"]);
  EXPECT_EQ(workspace("check cut.capture.h5").out, "sound\n");
  const Result same = workspace("compare cut.capture.h5 direct.capture.h5 --json");
  EXPECT_EQ(same.status, 0) << same.out << same.err;
  EXPECT_GT(same.json()["compared"], 20);
  const auto facts = workspace("inspect cut.capture.h5 --json").json();
  EXPECT_EQ(facts["notes"],
            "extracted: 1 of 2 layers, the first 2 of 5 decode steps, profile scores of full");
  EXPECT_EQ(facts["capture_hash"],
            workspace("inspect whole.capture.h5 --json").json()["capture_hash"]);
  const auto direct = workspace("inspect direct.capture.h5 --json").json();
  EXPECT_EQ(facts["parts"], direct["parts"]);
}

TEST(Extract, QkvOfFullKeepsTheNewestQueries) {
  const Workspace workspace;
  const std::string capture = "capture tiny.gguf -f prompt.txt --new-tokens 2 " + run;
  ASSERT_EQ(workspace(capture + "--profile full -o full.capture.h5").status, 0);
  ASSERT_EQ(workspace(capture + "--profile qkv --queries 10 -o qkv.capture.h5").status, 0);
  ASSERT_EQ(
      workspace("extract full.capture.h5 --profile qkv --queries 10 -o cut.capture.h5").status, 0);
  const Result same = workspace("compare cut.capture.h5 qkv.capture.h5 --json");
  EXPECT_EQ(same.status, 0) << same.out;
  const std::string decide = " -m snapkv:window=8 --keep 0.5 --metrics none -o ";
  ASSERT_EQ(workspace("decide cut.capture.h5" + decide + "a.decision.h5").status, 0);
  ASSERT_EQ(workspace("decide full.capture.h5" + decide + "b.decision.h5").status, 0);
  EXPECT_EQ(workspace("compare a.decision.h5 b.decision.h5").status, 0);
}

/// Of a shorter prompt only what later tokens have no part in: the same as a run of that prompt.
TEST(Extract, FirstTokensAreThoseOfAShorterRun) {
  const Workspace workspace;
  std::string ids;
  for (int token = 0; token < 40; ++token) {
    ids += fmt::format("{} ", 3 + (token * 7) % 50);
  }
  workspace.write("long.ids", ids);
  std::istringstream words(ids);
  std::string start;
  std::string word;
  for (int token = 0; token < 25 && words >> word; ++token) {
    start += word + " ";
  }
  workspace.write("short.ids", start);
  const std::string capture = "capture tiny.gguf --profile full --top-keys 4 " + run;
  ASSERT_EQ(workspace(capture + "--token-ids long.ids --new-tokens 3 -o long.capture.h5").status,
            0);
  ASSERT_EQ(workspace(capture + "--token-ids short.ids -o short.capture.h5").status, 0);
  const Result cut = workspace("extract long.capture.h5 --tokens 25 -o cut.capture.h5 --json");
  ASSERT_EQ(cut.status, 0) << cut.err;
  EXPECT_EQ(workspace("check cut.capture.h5").out, "sound\n");
  const auto left_out = cut.json()["left_out"].dump();
  EXPECT_NE(left_out.find("reduce/attention_sum"), std::string::npos) << left_out;
  EXPECT_NE(left_out.find("reduce/window_sum"), std::string::npos) << left_out;
  EXPECT_EQ(left_out.find("layers/"), std::string::npos) << left_out;
  EXPECT_EQ(cut.json()["capture_hash"],
            workspace("inspect short.capture.h5 --json").json()["capture_hash"]);
  const Result same =
      workspace("compare cut.capture.h5 short.capture.h5 --absolute 1e-4 --relative 1e-3 --json");
  EXPECT_EQ(differences(same), "windows\ndatasets only in B\n") << same.out;
}

TEST(Extract, RefusesWhatIsNotThere) {
  const Workspace workspace;
  ASSERT_EQ(
      workspace("capture tiny.gguf -f prompt.txt --profile scores --layers 1 --new-tokens 2 " +
                run + "-o x.capture.h5")
          .status,
      0);
  const std::vector<std::string> before = workspace.names();
  const auto refused = [&](const std::string& arguments, const std::string& message) {
    const Result result = workspace("extract " + arguments);
    EXPECT_EQ(result.status, 2) << arguments << "\n" << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << arguments << "\n" << result.err;
    EXPECT_EQ(workspace.names(), before) << arguments;
  };
  refused("x.capture.h5 --layers 0 -o y.capture.h5", "layer 0 is not in the capture");
  refused("x.capture.h5 --layers 7 -o y.capture.h5", "outside");
  refused("x.capture.h5 --profile qkv -o y.capture.h5", "stores more");
  refused("x.capture.h5 --steps 3 -o y.capture.h5", "3 decode steps of 2");
  refused("x.capture.h5 --tokens 100000 -o y.capture.h5", "--tokens");
  refused("x.capture.h5 --tokens 3 --steps 1 -o y.capture.h5", "shorter prompt");
  refused("x.capture.h5 -o y.capture.h5", "keeps everything");
  refused("x.capture.h5 --steps 1 -o x.capture.h5", "exists");
  EXPECT_EQ(workspace("extract prompt.txt --steps 1 -o y.capture.h5").status, 1);
}

TEST(Compare, SaysWhatDiffersWhereFirstAndHowMuch) {
  const Workspace workspace;
  const std::string capture = "capture tiny.gguf -f prompt.txt --profile full " + run;
  ASSERT_EQ(workspace(capture + "-o a.capture.h5").status, 0);
  // A weight of W_O of layer 0 moves: what is captured of layer 0 stays, layer 1 changes.
  std::string model = workspace.read("tiny.gguf");
  const std::size_t at = model.size() * 37 / 100 / 32 * 32;
  model[at + 3] = static_cast<char>(model[at + 3] ^ 0x02);
  workspace.write("other.gguf", model);
  ASSERT_EQ(workspace("capture other.gguf -f prompt.txt --profile full " + run + "-o b.capture.h5")
                .status,
            0);
  const Result same = workspace("compare a.capture.h5 a.capture.h5");
  EXPECT_EQ(same.status, 0) << same.err;
  EXPECT_NE(same.out.find("no differences"), std::string::npos) << same.out;
  const Result result = workspace("compare a.capture.h5 b.capture.h5 --json");
  EXPECT_EQ(result.status, 3) << result.err;
  const nlohmann::json json = result.json();
  EXPECT_FALSE(json["equal"]);
  std::string first_of_layer_1;
  for (const auto& found : json["differences"]) {
    const std::string what = found["what"];
    if (found["layer"].is_number() && found["layer"] == 1 && first_of_layer_1.empty()) {
      first_of_layer_1 = what;
      EXPECT_GT(found["count"], 0);
      EXPECT_GE(found["total"], found["count"]);
      EXPECT_GT(found["largest"], 0.0);
      EXPECT_EQ(found["first"].get<std::string>().find("kv_head 0, token 0"), 0u) << found.dump();
    }
    EXPECT_TRUE(what != "layers/000/keys" && what != "layers/000/queries") << what;
  }
  EXPECT_EQ(first_of_layer_1, "layers/001/keys_pre_rope") << result.out;
  const Result text = workspace("compare a.capture.h5 b.capture.h5");
  EXPECT_NE(text.out.find("layers/001/keys_pre_rope"), std::string::npos) << text.out;
  EXPECT_EQ(workspace("compare a.capture.h5 b.capture.h5 --absolute 1e9").status, 0);
}

TEST(Compare, DecisionsAndWrongPairs) {
  const Workspace workspace;
  ASSERT_EQ(workspace("capture tiny.gguf -f prompt.txt --profile scores " + run + "-o a.capture.h5")
                .status,
            0);
  const std::string decide = "decide a.capture.h5 --scores -m ";
  ASSERT_EQ(workspace(decide + "knorm --keep 0.5 -o k.decision.h5").status, 0);
  ASSERT_EQ(workspace(decide + "snapkv:window=8 --keep 0.5 -o s.decision.h5").status, 0);
  EXPECT_EQ(workspace("compare k.decision.h5 k.decision.h5").status, 0);
  const Result result = workspace("compare k.decision.h5 s.decision.h5 --json");
  EXPECT_EQ(result.status, 3) << result.err;
  const std::string names = differences(result);
  EXPECT_EQ(names.find("method\n"), 0u) << names;
  EXPECT_NE(names.find("fates, layer 0\n"), std::string::npos) << names;
  EXPECT_NE(names.find("scores, layer 1\n"), std::string::npos) << names;
  EXPECT_EQ(workspace("compare k.decision.h5 a.capture.h5").status, 2);
  EXPECT_EQ(workspace("compare tiny.gguf tiny.gguf").status, 1);
  EXPECT_EQ(workspace("compare k.decision.h5 absent.decision.h5").status, 1);
}

}  // namespace
}  // namespace kvscope::test
