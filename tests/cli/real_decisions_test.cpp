/// A real run of SmolLM2, captured, calibrated and decided by the program, against
/// tests/golden/real_decisions.py: float64, nothing shared. Skipped where the model was not
/// fetched.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "kvscope/storage/decision_file.h"
#include "program.h"

namespace kvscope::test {
namespace {

using Json = nlohmann::json;

constexpr const char* source = KVSCOPE_SOURCE_DIR;

/// One capture for all tests: made when first asked for.
class RealDecisions : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string model = std::string(source) + "/models/smollm2.gguf";
    if (!std::filesystem::exists(model)) {
      return;
    }
    workspace_ = std::make_unique<Workspace>();
    golden_ = Json::parse(std::ifstream(std::string(source) + "/tests/golden/smollm2_decisions.json"));
    std::string ids;
    for (const int id : golden_["ids"]) {
      ids += std::to_string(id) + " ";
    }
    workspace_->write("ids.txt", ids);
    const Result run = (*workspace_)("capture " + model +
                                     " --token-ids ids.txt --profile qkv -o real.capture.h5");
    ASSERT_EQ(run.status, 0) << run.err;
    const Result calibrated = (*workspace_)("calibrate " + model + " -f " + source +
                                            "/data/demo/passage.txt -o passage.calibration.h5");
    ASSERT_EQ(calibrated.status, 0) << calibrated.err;
  }
  static void TearDownTestSuite() { workspace_.reset(); }
  void SetUp() override {
    if (workspace_ == nullptr) {
      GTEST_SKIP() << "models/smollm2.gguf is not there; ./run fetch smollm2";
    }
  }

  static Decision decided(const Json& one) {
    const Result run = (*workspace_)("decide real.capture.h5 --scores --metrics none -m '" +
                                     one["method"].get<std::string>() + "' --keep " +
                                     std::to_string(golden_["slots"].get<int>()) +
                                     " -o one.decision.h5 --force");
    EXPECT_EQ(run.status, 0) << run.err;
    return read_decision((workspace_->folder() / "one.decision.h5").string());
  }

  static std::unique_ptr<Workspace> workspace_;
  static Json golden_;
};

std::unique_ptr<Workspace> RealDecisions::workspace_;
Json RealDecisions::golden_;

/// Whether `score` lies so near its head's cut that float32 may decide otherwise.
bool tied(float score, const Cut& cut) {
  const auto near = [score](float edge) {
    return std::abs(score - edge) <= 1e-4F * std::abs(edge) + 1e-6F;
  };
  return near(cut.last_kept) || near(cut.first_lost);
}

bool bit_of(const std::string& hexadecimal, int token) {
  const char digit = hexadecimal[static_cast<std::size_t>(token / 4)];
  const int value = digit <= '9' ? digit - '0' : digit - 'a' + 10;
  return (value >> (3 - token % 4) & 1) != 0;
}

TEST_F(RealDecisions, KeptSetsAreThoseOfTheFloat64Script) {
  int compared = 0;
  int ties = 0;
  for (const Json& one : golden_["cases"]) {
    if (!one.contains("kept")) {
      continue;
    }
    SCOPED_TRACE(one["method"].get<std::string>());
    const Decision decision = decided(one);
    ASSERT_EQ(decision.layers.size(), 30u);
    for (const LayerDecision& layer : decision.layers) {
      for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
        const std::string expected = one["kept"][static_cast<std::size_t>(layer.layer)]
                                        [static_cast<std::size_t>(kv_head)];
        for (int token = 0; token < layer.tokens; ++token) {
          const std::size_t cell = layer.cell(kv_head, token);
          const bool kept = layer.removed_at[cell] == alive;
          ++compared;
          if (kept == bit_of(expected, token)) {
            continue;
          }
          ++ties;
          EXPECT_TRUE(tied(layer.scores[cell], layer.cut[static_cast<std::size_t>(kv_head)]))
              << "layer " << layer.layer << ", KV head " << kv_head << ", token " << token
              << ", score " << layer.scores[cell];
        }
      }
    }
  }
  EXPECT_EQ(compared, 5 * 30 * 3 * 320);
  EXPECT_LT(ties, 20);
}

TEST_F(RealDecisions, AlphaPicksThoseOfTheFloat64Script) {
  int picks = 0;
  int whole = 0;
  for (const Json& one : golden_["cases"]) {
    if (!one.contains("picks")) {
      continue;
    }
    SCOPED_TRACE(one["method"].get<std::string>());
    const Decision decision = decided(one);
    for (const LayerDecision& layer : decision.layers) {
      for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
        const Json& expected = one["picks"][static_cast<std::size_t>(layer.layer)]
                                  [static_cast<std::size_t>(kv_head)];
        const std::vector<int> order = expected["order"];
        const auto sure = expected["sure"].get<std::size_t>();
        const auto kept = [&](int token) {
          return layer.removed_at[layer.cell(kv_head, token)] == alive;
        };
        for (std::size_t pick = 0; pick < sure; ++pick) {
          EXPECT_TRUE(kept(order[pick])) << "layer " << layer.layer << ", KV head " << kv_head
                                         << ", pick " << pick << ": " << order[pick];
          ++picks;
        }
        if (sure == order.size()) {
          std::set<int> set(order.begin(), order.end());
          for (int token = 0; token < layer.tokens; ++token) {
            EXPECT_EQ(kept(token), token >= layer.tokens - 16 || set.contains(token));
          }
          ++whole;
        }
      }
    }
  }
  EXPECT_GT(picks, 2 * 90 * 60);
  EXPECT_GT(whole, 80);
}

}  // namespace
}  // namespace kvscope::test
