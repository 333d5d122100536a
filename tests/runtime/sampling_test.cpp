#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <map>

#include "kvscope/runtime/live_run.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

TEST(Sampling, GreedyTakesTheLowestIdOfEquals) {
  EXPECT_EQ(sample(at::tensor({0.5f, 2.0f, -1.0f, 2.0f}), {}, 0), 1);
  EXPECT_EQ(sample(at::zeros({7}), {}, 3), 0);
}

TEST(Sampling, DependsOnSeedAndStepAlone) {
  const at::Tensor logits = at::zeros({1000});
  Sampling sampling;
  sampling.temperature = 1;
  sampling.seed = 42;
  std::vector<std::int32_t> forward;
  for (int step = 0; step < 20; ++step) {
    forward.push_back(sample(logits, sampling, step));
  }
  for (int step = 19; step >= 0; --step) {
    EXPECT_EQ(sample(logits, sampling, step), forward[static_cast<std::size_t>(step)]);
  }
  sampling.seed = 43;
  int equal = 0;
  for (int step = 0; step < 20; ++step) {
    equal += sample(logits, sampling, step) == forward[static_cast<std::size_t>(step)];
  }
  EXPECT_LT(equal, 3);
}

TEST(Sampling, FollowsTheProbabilities) {
  // softmax of log(1), log(2), log(5) at temperature 1: 1/8, 2/8, 5/8
  const at::Tensor logits = at::tensor({0.0f, std::log(2.0f), std::log(5.0f)});
  Sampling sampling;
  sampling.temperature = 1;
  std::map<int, int> drawn;
  for (int step = 0; step < 8000; ++step) {
    ++drawn[sample(logits, sampling, step)];
  }
  EXPECT_NEAR(drawn[0], 1000, 120);
  EXPECT_NEAR(drawn[1], 2000, 160);
  EXPECT_NEAR(drawn[2], 5000, 200);
}

TEST(Sampling, TopKAndTopPCutTheTail) {
  const at::Tensor logits = at::tensor({0.0f, std::log(2.0f), std::log(5.0f)});
  Sampling top_k;
  top_k.temperature = 1;
  top_k.top_k = 2;
  Sampling top_p;
  top_p.temperature = 1;
  top_p.top_p = 0.6;  // the best token alone has 0.625
  for (int step = 0; step < 200; ++step) {
    EXPECT_NE(sample(logits, top_k, step), 0);
    EXPECT_EQ(sample(logits, top_p, step), 2);
  }
  top_k.top_k = 100;  // more than there are
  EXPECT_GE(sample(logits, top_k, 0), 0);
}

TEST(Sampling, ColdTemperatureIsGreedyAndBadSettingsAreRefused) {
  Sampling sampling;
  sampling.temperature = 1e-4;
  EXPECT_EQ(sample(at::tensor({1.0f, 3.0f, 2.0f}), sampling, 9), 1);
  sampling.temperature = -1;
  EXPECT_EQ(error_of([&] { sample(at::zeros({3}), sampling, 0); }), code(ErrorCode::usage));
  Sampling no_mass;
  no_mass.top_p = 0;
  EXPECT_EQ(error_of([&] { sample(at::zeros({3}), no_mass, 0); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { sample(at::Tensor(), {}, 0); }), code(ErrorCode::usage));
}

}  // namespace
}  // namespace kvscope::test
