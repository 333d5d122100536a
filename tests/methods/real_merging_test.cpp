/// KVSlimmer and AsymKV on SmolLM2 against tests/golden/pair_merging.py, float64 from the token ids
/// on. Skipped where the model was not fetched.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "key_weights.h"
#include "kvscope/methods/method.h"

namespace kvscope::test {
namespace {

struct RealCase {
  const char* method;
  std::size_t golden;
  double tolerance;  ///< of the share of the key weights
  double share = 1;
  int events = 2;  ///< whose key weights are compared
};

class RealMerging : public ::testing::TestWithParam<RealCase> {};

TEST_P(RealMerging, Smollm2MergesThePairsOfTheFloat64Script) {
  const std::string path = KVSCOPE_SOURCE_DIR "/models/smollm2.gguf";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "needs a real model: ./run fetch smollm2";
  }
  const nlohmann::json golden =
      nlohmann::json::parse(std::ifstream(KVSCOPE_SOURCE_DIR "/tests/golden/smollm2_merging.json"));
  TokenTable prompt;
  for (const int id : golden["ids"].get<std::vector<int>>()) {
    prompt.append(id, prompt.size(), Segment::context, "x");
  }
  prompt.prompt_tokens = prompt.context_tokens = prompt.size();
  const auto run =
      LiveRun::start(Model::load(ModelFile::open(path), {"cpu", "float32", 2}), prompt, {});
  const RealCase& one = GetParam();
  const std::vector<Method> methods =
      parse_methods(std::string(one.method) + ",chunk=64,sink=8,cache=128,final_cut=true");
  const Decision decision = compress(*run, methods.front(), Budget::parse("128"), {});
  ASSERT_EQ(decision.events.size(), 2u);
  for (int event = 0; event < 2; ++event) {
    const Deviation deviation = from_golden(golden["cases"][one.golden], decision, event);
    EXPECT_GT(deviation.count, 500);
    EXPECT_EQ(deviation.other_pairs, 0) << "event " << event;
    if (event >= one.events) {
      continue;
    }
    EXPECT_LT(deviation.quantile(one.share), one.tolerance) << "event " << event;
  }
}

// The cache is float32, the script's float64: where gradients all but cancel, a weight shows it,
// and the oracle's later events start from such weights.
INSTANTIATE_TEST_SUITE_P(All, RealMerging,
                         ::testing::Values(RealCase{"kvslimmer:variant=code", 0, 1e-5},
                                           RealCase{"kvslimmer:variant=paper", 1, 1e-5},
                                           RealCase{"kvslimmer:variant=oracle,gradient=float64", 2,
                                                    1e-5, 0.85, 1},
                                           RealCase{"asymkv:gradient=float64", 3, 1e-5, 0.99}));

}  // namespace
}  // namespace kvscope::test
