#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "program.h"

namespace kvscope::test {
namespace {

struct Case {
  std::string arguments;
  int status;
  std::string message;  ///< part of stderr
};

/// Runs every case in one workspace; none may leave a file behind.
void expect_refused(const std::vector<Case>& cases, Workspace& workspace) {
  const std::vector<std::string> before = workspace.names();
  for (const Case& bad : cases) {
    const Result result = workspace(bad.arguments);
    EXPECT_EQ(result.status, bad.status) << "kvscope " << bad.arguments << "\n" << result.err;
    EXPECT_NE(result.err.find(bad.message), std::string::npos)
        << "kvscope " << bad.arguments << "\nexpected: " << bad.message << "\n"
        << result.err;
    EXPECT_EQ(workspace.names(), before) << "kvscope " << bad.arguments;
  }
}

TEST(BadInput, CommandLine) {
  Workspace workspace;
  expect_refused(
      {{"", 2, "subcommand"},
       {"capure", 2, "did you mean 'capture'"},
       {"capture tiny.gguf -p hello", 2, "--output"},
       {"capture tiny.gguf -o x.capture.h5", 2, "there is no prompt"},
       {"capture tiny.gguf -p a -f prompt.txt -o x.capture.h5", 2, "more than once"},
       {"capture tiny.gguf -p a --profile wndow -o x.capture.h5", 2, "window"},
       {"capture tiny.gguf -p a --layers 0-99 -o x.capture.h5", 2, "outside"},
       {"capture tiny.gguf -p a --layers x -o x.capture.h5", 2, "neither"},
       {"capture tiny.gguf -p a --layers every:0 -o x.capture.h5", 2, "--layers"},
       {"capture tiny.gguf -p a --query-heads 4 -o x.capture.h5", 2, "outside 0 to 3"},
       {"capture tiny.gguf -p a --hooks residual_ot -o x.capture.h5", 2, "residual_out"},
       {"capture tiny.gguf -p a --hooks keys --profile window -o x.capture.h5", 2, "--profile qkv"},
       {"capture tiny.gguf -p a --hooks logits --hook-tokens question -o x.capture.h5", 2,
        "--question"},
       {"capture tiny.gguf -p a --steps 3 --new-tokens 2 -o x.capture.h5", 2, "--steps"},
       {"capture tiny.gguf -p a --reductions entropi -o x.capture.h5", 2, "head_output_norm"},
       {"capture tiny.gguf -p a --snapshots 0 --profile window -o x.capture.h5", 2,
        "--profile scores"},
       {"capture tiny.gguf -p a -o no/such/folder/x.capture.h5", 1, "folder"},
       {"methods snapvk", 2, "snapkv"}},
      workspace);
}

TEST(BadInput, Model) {
  Workspace workspace;
  const std::string model = workspace.read("tiny.gguf");
  workspace.write("empty.gguf", "");
  workspace.write("cut.gguf", model.substr(0, model.size() / 2));
  workspace.write("page.gguf", "<!DOCTYPE html><html></html>");
  workspace.write("pointer.gguf", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  std::string mad = model;
  mad[9] = mad[10] = mad[11] = '\x7f';
  workspace.write("mad.gguf", mad);
  expect_refused({{"capture absent.gguf -p a -o x.capture.h5", 1, "absent.gguf"},
                  {"capture empty.gguf -p a -o x.capture.h5", 1, "empty.gguf"},
                  {"capture cut.gguf -p a -o x.capture.h5", 1, "cut.gguf"},
                  {"capture page.gguf -p a -o x.capture.h5", 1, "page.gguf"},
                  {"capture pointer.gguf -p a -o x.capture.h5", 1, "download"},
                  {"capture mad.gguf -p a -o x.capture.h5", 1, "mad.gguf"},
                  {"spectral cut.gguf -o x.spectrum.h5", 1, "cut.gguf"},
                  {"generate empty.gguf -p a -m knorm", 1, "empty.gguf"}},
                 workspace);
}

TEST(BadInput, Prompt) {
  Workspace workspace;
  workspace.write("empty.txt", "");
  std::string long_prompt;
  for (int word = 0; word < 3000; ++word) {
    long_prompt += "word ";
  }
  workspace.write("long.txt", long_prompt);
  workspace.write("ids.txt", "1 2 99999999");
  workspace.write("words.txt", "one two");
  expect_refused({{"capture tiny.gguf -f empty.txt -o x.capture.h5", 2, "empty"},
                  {"capture tiny.gguf -f absent.txt -o x.capture.h5", 1, "absent.txt"},
                  {"capture tiny.gguf -f long.txt -o x.capture.h5", 2, "context"},
                  {"capture tiny.gguf --token-ids ids.txt -o x.capture.h5", 2, "99999999"},
                  {"capture tiny.gguf --token-ids words.txt -o x.capture.h5", 2, "one"}},
                 workspace);
}

/// What the error recommends works: token ids need no tokenizer.
TEST(BadInput, UnknownTokenizer) {
  Workspace workspace;
  std::string model = workspace.read("tiny.gguf");
  model.replace(model.find("smollm"), 6, "smallm");
  workspace.write("other.gguf", model);
  workspace.write("ids.txt", "3 4 5 6 7 8 9 10");
  expect_refused({{"capture other.gguf -p a -o x.capture.h5", 1, "--token-ids"}}, workspace);
  EXPECT_EQ(workspace("capture other.gguf --token-ids ids.txt --window 4 -o x.capture.h5").status,
            0);
  EXPECT_EQ(workspace("generate other.gguf --token-ids ids.txt -m knorm --keep 0.5 --new-tokens 2")
                .status,
            0);
}

/// The seed systems say which number is wrong, and how to mend it, before any forward pass.
TEST(BadInput, SeedSystems) {
  Workspace workspace;
  std::string corpus;
  for (int word = 0; word < 400; ++word) {
    corpus += "word " + std::to_string(word) + " ";
  }
  workspace.write("corpus.txt", corpus);
  ASSERT_EQ(workspace("calibrate tiny.gguf -f corpus.txt -o tiny.calibration.h5").status, 0);
  std::string other = workspace.read("tiny.gguf");
  for (std::size_t at = other.size() / 2 / 32 * 32; at < other.size(); at += 32) {
    other[at] = static_cast<char>(other[at] ^ 1);  // the last place of every eighth weight
  }
  workspace.write("other.gguf", other);
  const std::string generate =
      "generate tiny.gguf -f prompt.txt --new-tokens 2 --keep 0.2 -o d -m ";
  const std::string calibrated = ":calibration=tiny.calibration.h5";
  expect_refused({{generate + "alpha" + calibrated + ",lambda=-1", 2, "give a value in 0.."},
                  {generate + "alpha" + calibrated + ",lambda=nan", 2, "not finite"},
                  {generate + "alpha", 2, "needs a calibration"},
                  {generate + "triattention:calibration=absent.h5", 1, "absent.h5"},
                  {generate + "triattention:calibration=tiny.gguf", 1, "tiny.gguf"},
                  {generate + "triattention" + calibrated, 2, "none for new tokens"},
                  {"generate other.gguf -f prompt.txt -o d -m triattention" + calibrated +
                       ",prompt=evictable,first_cut=prefill_end",
                   2, "another model"},
                  {generate + "laprox:window=4096", 2, "protect fewer tokens"},
                  {generate + "snapkv:window=64", 2, "protects 64 tokens"},
                  {generate + "asymkv:cache=60,sink=40,chunk=16", 2, "fewer than its 40 sinks"},
                  {generate + "kvslimmer:cache=60,sink=40,chunk=16", 2, "larger chunk="},
                  {generate + "asymkv", 2, "timing=budget"},
                  {generate + "kvslimmer:cache=20,sink=20,chunk=64", 2, "sinks"}},
                 workspace);
}

TEST(BadInput, DecideAndReport) {
  Workspace workspace;
  ASSERT_EQ(
      workspace("capture tiny.gguf -f prompt.txt --profile window --window 8 -o run.capture.h5")
          .status,
      0);
  const std::string capture = workspace.read("run.capture.h5");
  workspace.write("cut.capture.h5", capture.substr(0, capture.size() / 3));
  workspace.write("text.capture.h5", "hello");
  const std::string decide = "decide run.capture.h5 ";
  expect_refused({{"decide absent.capture.h5 -m knorm -o d", 1, "absent"},
                  {"decide cut.capture.h5 -m knorm -o d", 1, "cut.capture.h5"},
                  {"decide text.capture.h5 -m knorm -o d", 1, "text.capture.h5"},
                  {"decide tiny.gguf -m knorm -o d", 1, "tiny.gguf"},
                  {decide + "-m knrom -o d", 2, "knorm"},
                  {decide + "-m snapkv:windw=8 -o d", 2, "window"},
                  {decide + "-m snapkv:window=abc -o d", 2, "window"},
                  {decide + "-m snapkv:window=8 --keep 0 -o d", 2, "0"},
                  {decide + "-m snapkv:window=8 --keep 1.5 -o d", 2, "1.5"},
                  {decide + "-m snapkv:window=8 --keep 0.0 -o d", 2, "outside"},
                  {decide + "-m snapkv:window=8 --keep 2 -o d", 2, "protect"},
                  {decide + "-m keydiff --keep 0.5 -o d", 1, "--profile"},
                  {decide + "-m observed_attention --keep 0.5 -o d", 1, "--profile"},
                  {decide + "-m knorm -m streaming_llm --keep 0.5 -o x.decision.h5", 2, "folder"},
                  {"report run.capture.h5 tiny.gguf", 1, "tiny.gguf"},
                  {"check cut.capture.h5", 1, "cut.capture.h5"},
                  {"inspect prompt.txt", 1, "prompt.txt"}},
                 workspace);
}

/// HDF5 1.10 crashes on some of these; the program never does (probe.md 9, row 26).
TEST(BadInput, FlippedBytesOfACaptureEndInAnError) {
  Workspace workspace;
  ASSERT_EQ(workspace("capture tiny.gguf -p word --new-tokens 2 -o x.capture.h5").status, 0);
  const std::string whole = workspace.read("x.capture.h5");
  std::uint64_t random = 7;
  const auto draw = [&](std::size_t bound) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(random >> 33) % bound;
  };
  int refused = 0;
  for (int round = 0; round < 30; ++round) {
    std::string bytes = whole;
    for (int change = 0; change < 200; ++change) {
      bytes[draw(bytes.size())] = static_cast<char>(draw(256));
    }
    workspace.write("bad.capture.h5", bytes);
    for (const std::string command :
         {"inspect bad.capture.h5", "check bad.capture.h5", "recover bad.capture.h5 -o y.h5"}) {
      const Result result = workspace(command);
      ASSERT_GE(result.status, 0) << command << ", round " << round;
      ASSERT_LE(result.status, 3) << command << ", round " << round << "\n" << result.err;
      if (result.status == 1) {
        ++refused;
        EXPECT_NE(result.err.find("error:"), std::string::npos) << command << "\n" << result.err;
      }
    }
    std::filesystem::remove(workspace.folder() / "y.h5");
  }
  EXPECT_GT(refused, 15);
}

TEST(BadInput, FullDiskLeavesNoCapture) {
  Workspace workspace;
  const Result result =
      workspace("capture tiny.gguf -f prompt.txt --profile full -o x.capture.h5; true");
  ASSERT_TRUE(workspace.has("x.capture.h5")) << result.err;
  std::filesystem::remove(workspace.folder() / "x.capture.h5");
  const std::vector<std::string> before = workspace.names();
  // 64 KiB file size limit: the same error path as a full disk.
  const std::string command = "ulimit -f 64; cd '" + workspace.folder().string() + "' && '" +
                              KVSCOPE_BINARY_DIR
                              "/bin/kvscope' capture tiny.gguf -f prompt.txt "
                              "--profile full -o x.capture.h5 2>/dev/null";
  const int status = std::system(("bash -c \"" + command + "\"").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_EQ(workspace.names(), before);
}

TEST(BadInput, InterruptLeavesNoCapture) {
  Workspace workspace;
  std::string long_prompt;
  for (int word = 0; word < 400; ++word) {
    long_prompt += "word ";
  }
  workspace.write("long.txt", long_prompt);
  const std::vector<std::string> before = workspace.names();
  const std::string command = "cd '" + workspace.folder().string() + "' && timeout -s INT 0.2 '" +
                              KVSCOPE_BINARY_DIR
                              "/bin/kvscope' capture tiny.gguf -p word "
                              "--new-tokens 1900 -o x.capture.h5 2>/dev/null >/dev/null";
  const int status = std::system(command.c_str());
  EXPECT_NE(WEXITSTATUS(status), 0);
  EXPECT_EQ(workspace.names(), before);
}

}  // namespace
}  // namespace kvscope::test
