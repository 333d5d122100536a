#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "program.h"

namespace kvscope::test {
namespace {

/// `kvscope ARGUMENTS` after the shell's `setting`, in the workspace; what it says goes to .said.
int run_under(const Workspace& workspace, const std::string& setting,
              const std::string& arguments) {
  const std::string command =
      fmt::format("bash -c \"{}; cd '{}' && '{}/bin/kvscope' {} >/dev/null 2>.said\"", setting,
                  workspace.folder().string(), KVSCOPE_BINARY_DIR, arguments);
  return WEXITSTATUS(std::system(command.c_str()));
}

/// probe.md 9, row 11.
TEST(Limits, WeightsThatAreNotFiniteAreCountedStoredAndRefused) {
  const Workspace workspace;
  std::string model = workspace.read("tiny.gguf");
  const float nan = std::nanf("");
  std::memcpy(model.data() + model.size() * 37 / 100 / 32 * 32, &nan, sizeof nan);
  workspace.write("nan.gguf", model);
  const std::string capture =
      "capture nan.gguf -f prompt.txt --profile window --window 8 --keep-going ";
  const Result told = workspace(capture + "-o x.capture.h5");
  EXPECT_EQ(told.status, 0) << told.err;
  const std::size_t at = told.err.find("1 weights are NaN or infinite: blk.0.");
  EXPECT_NE(at, std::string::npos) << told.err;
  const auto facts = workspace("inspect x.capture.h5 --json").json();
  const auto stored = nlohmann::json::parse(facts["nonfinite_weights"].get<std::string>());
  EXPECT_EQ(stored["total"], 1);
  ASSERT_EQ(stored["tensors"].size(), 1u);
  EXPECT_NE(told.err.find(stored["tensors"].begin().key()), std::string::npos);
  for (const std::string& command :
       {capture + "--strict -o y.capture.h5",
        std::string("generate nan.gguf -f prompt.txt -m knorm --keep 0.5 --strict")}) {
    const Result refused = workspace(command);
    EXPECT_EQ(refused.status, 1) << refused.err;
    EXPECT_NE(refused.err.find("without --strict"), std::string::npos) << refused.err;
  }
  EXPECT_FALSE(workspace.has("y.capture.h5"));
  const Result sound = workspace("capture tiny.gguf -f prompt.txt --strict -o z.capture.h5");
  EXPECT_EQ(sound.status, 0) << sound.err;
  EXPECT_EQ(workspace("inspect z.capture.h5 --json").json()["nonfinite_weights"], "");
}

/// Row 14.
TEST(Limits, TokensBeyondTheContext) {
  const Workspace workspace;
  std::string words;
  for (int word = 0; word < 2100; ++word) {
    words += "5 ";
  }
  workspace.write("long.ids", words);
  const std::string capture =
      "capture tiny.gguf --token-ids long.ids --profile window -o x.capture.h5";
  const Result refused = workspace(capture);
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("the prompt has 2100 tokens, the model's context 2048"),
            std::string::npos)
      << refused.err;
  EXPECT_NE(refused.err.find("--allow-beyond-context"), std::string::npos);
  const Result allowed = workspace(capture + " --allow-beyond-context");
  EXPECT_EQ(allowed.status, 0) << allowed.err;
  EXPECT_NE(allowed.err.find("warning"), std::string::npos) << allowed.err;
  EXPECT_EQ(workspace("inspect x.capture.h5 --json").json()["prompt_tokens"], 2100);
}

/// Row 15: refused before the model is loaded.
TEST(Limits, MoreMemoryThanThereIs) {
  const Workspace workspace;
  std::string ids;
  for (int token = 0; token < 1'000'000; ++token) {
    ids += "5 ";
  }
  workspace.write("many.ids", ids);
  std::string windows = "1";
  for (int window = 2; window < 400; ++window) {
    windows += fmt::format(",{}", window);
  }
  const std::string capture = fmt::format(
      "capture tiny.gguf --token-ids many.ids --allow-beyond-context --profile window --layers 0 "
      "--window {} -o x.capture.h5",
      windows);
  const std::vector<std::string> before = workspace.names();
  EXPECT_EQ(run_under(workspace, "ulimit -v 8000000", capture), 1);
  const std::string said = workspace.read(".said");
  EXPECT_NE(said.find("of memory"), std::string::npos) << said;
  EXPECT_NE(said.find("are free"), std::string::npos) << said;
  EXPECT_NE(said.find("--yes"), std::string::npos) << said;
  std::filesystem::remove(workspace.folder() / ".said");
  EXPECT_EQ(workspace.names(), before);
}

/// Before the run the price is said in bytes and seconds.
TEST(Limits, ThePriceIsSaid) {
  const Workspace workspace;
  const Result small = workspace("capture tiny.gguf -f prompt.txt -o x.capture.h5 --json");
  EXPECT_EQ(small.status, 0);
  EXPECT_NE(small.err.find("price: "), std::string::npos) << small.err;
  EXPECT_NE(small.err.find("on disk"), std::string::npos) << small.err;
  EXPECT_NE(small.err.find(", under a second (an estimate)"), std::string::npos) << small.err;
  EXPECT_GT(small.json()["estimated_seconds"], 0.0);
  EXPECT_LT(small.json()["estimated_seconds"], 1.0);
}

/// Row 26, where decisions, reports and pictures begin: the program itself never crashes.
TEST(Limits, DamagedFilesAreReadInAProcessOfTheirOwnFirst) {
  const Workspace workspace;
  ASSERT_EQ(workspace("capture tiny.gguf -f prompt.txt --new-tokens 2 -o x.capture.h5").status, 0);
  ASSERT_EQ(workspace("decide x.capture.h5 -m knorm --keep 0.5 -o d.decision.h5").status, 0);
  const std::string whole = workspace.read("x.capture.h5");
  std::uint64_t random = 11;
  const auto draw = [&](std::size_t bound) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(random >> 33) % bound;
  };
  int refused = 0;
  for (int round = 0; round < 12; ++round) {
    std::string bytes = whole;
    for (int change = 0; change < 200; ++change) {
      bytes[draw(bytes.size())] = static_cast<char>(draw(256));
    }
    workspace.write("bad.capture.h5", bytes);
    for (const std::string command :
         {"decide bad.capture.h5 -m knorm --keep 0.5 --force -o y.decision.h5",
          "report bad.capture.h5 d.decision.h5",
          "spectral tiny.gguf --tokens bad.capture.h5 --layers 0 --no-products --force -o "
          "y.spectrum.h5",
          "view bad.capture.h5 d.decision.h5 --checks"}) {
      const Result result = workspace(command);
      ASSERT_LE(result.status, 3) << command << ", round " << round << "\n" << result.err;
      refused += result.status == 1 ? 1 : 0;
      EXPECT_TRUE(result.status != 1 || result.err.find("error:") != std::string::npos)
          << command << "\n"
          << result.err;
    }
  }
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace kvscope::test
