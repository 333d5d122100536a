#include <gtest/gtest.h>

#include <cmath>

#include "program.h"

namespace kvscope::test {
namespace {

/// One capture with queries, keys and values, shared by the tests of this file.
class SpectralProgram : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace;
    const Result capture =
        (*workspace_)("capture tiny.gguf -f prompt.txt --profile qkv --window 8 -o run.capture.h5");
    ASSERT_EQ(capture.status, 0) << capture.err;
    const Result decide = (*workspace_)(
        "decide run.capture.h5 -m 'knorm|nearest_key' --keep 0.5 -o pairs.decision.h5");
    ASSERT_EQ(decide.status, 0) << decide.err;
  }
  static void TearDownTestSuite() {
    delete workspace_;
    workspace_ = nullptr;
  }
  static Result run(const std::string& arguments) {
    return (*workspace_)("spectral tiny.gguf --force -o s.spectrum.h5 " + arguments);
  }
  static Workspace* workspace_;
};

Workspace* SpectralProgram::workspace_ = nullptr;

TEST_F(SpectralProgram, TokensAndMergesFillTheClaims) {
  const Result result =
      run("--tokens run.capture.h5 --decision pairs.decision.h5 --corpus notes --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto json = result.json();
  EXPECT_EQ(json["format"], "kvscope.spectrum.table");
  for (const char* path : {"homogeneity/notes/k/cos_adj_mean", "homogeneity/notes_post_rope/q/beta",
                           "merging/pairs/v/actual", "metrics/head/qk/participation_ratio_rel"}) {
    EXPECT_TRUE(json["tables"].contains(path)) << path;
  }
  ASSERT_GT(json["claims"].size(), 10u);
  for (const auto& claim : json["claims"]) {
    EXPECT_GT(claim["n"].get<int>(), 0) << claim;
  }
  EXPECT_FALSE(workspace_->has("s.spectrum.h5.partial"));
}

TEST_F(SpectralProgram, EveryFormatComesOut) {
  const Result text = run("--tokens run.capture.h5");
  for (const char* part : {"SPECTRA", "ASYMMETRY", "HEAD PRODUCTS", "ADJACENT TOKENS", "CLAIMS"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << part;
  }
  const Result csv = run("--format csv");
  EXPECT_TRUE(csv.out.starts_with("table,units,layer,place,index,value\r\n"));
  EXPECT_NE(csv.out.find("\r\nasymmetry/A_KV,nat,1,,,"), std::string::npos)
      << csv.out.substr(0, 300);
  const Result html = run("--tokens run.capture.h5 --format html");
  std::size_t pictures = 0;
  for (std::size_t at = 0; (at = html.out.find("<h3>", at)) != std::string::npos; ++at) {
    ++pictures;
  }
  EXPECT_EQ(pictures, 12u);
  EXPECT_EQ(html.out.find("needs the tokens stage"), std::string::npos);
  EXPECT_EQ(html.out.find("nan"), std::string::npos);
}

TEST_F(SpectralProgram, FastAndFits) {
  const Result fast = run("--fast --top 4 --json");
  ASSERT_EQ(fast.status, 0) << fast.err;
  EXPECT_TRUE(fast.json()["tables"].contains("metrics/layer/sigma_max_bound"));
  const Result fits = run("--fits --gain-folded --projections k,v --layers 1 --json");
  ASSERT_EQ(fits.status, 0) << fits.err;
  EXPECT_EQ(fits.json()["layers"], nlohmann::json::array({1}));
  EXPECT_TRUE(fits.json()["tables"].contains("metrics/layer/alpha_pl"));
  EXPECT_EQ(fits.json()["status"][0]["status"], "skipped");
}

TEST_F(SpectralProgram, AForeignFileOfFinishedLayersIsReplaced) {
  workspace_->write("s.spectrum.h5.partial", "not ours");
  EXPECT_EQ(run("").status, 0);
  EXPECT_FALSE(workspace_->has("s.spectrum.h5.partial"));
}

TEST_F(SpectralProgram, BadInputIsRefusedAndLeavesNothing) {
  const auto before = workspace_->names();
  const auto refused = [&](const std::string& arguments, int status, const std::string& message) {
    const Result result = (*workspace_)("spectral " + arguments);
    EXPECT_EQ(result.status, status) << arguments << "\n" << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << arguments << "\n" << result.err;
    EXPECT_EQ(workspace_->names(), before) << arguments;
  };
  refused("tiny.gguf --layers 0-99 -o x.spectrum.h5", 2, "outside");
  refused("tiny.gguf --projections q,w -o x.spectrum.h5", 2, "no projection 'w'");
  refused("tiny.gguf --device cuda:99 -o x.spectrum.h5", 1, "cuda:99");
  refused("tiny.gguf --device tpu -o x.spectrum.h5", 2, "no device 'tpu'");
  refused("tiny.gguf --tokens missing.capture.h5 -o x.spectrum.h5", 1, "missing.capture.h5");
  refused("tiny.gguf --tokens tiny.gguf -o x.spectrum.h5", 1, "tiny.gguf");
  refused("tiny.gguf --decision pairs.decision.h5 -o x.spectrum.h5", 2, "--tokens");
  refused("missing.gguf -o x.spectrum.h5", 1, "missing.gguf");
}

}  // namespace
}  // namespace kvscope::test
