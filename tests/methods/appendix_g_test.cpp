/// Reference numbers of specs/baselines.md, appendix G: one layer of 16 tokens, four query heads on
/// two KV heads, made by a generator that needs no library.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include <cmath>

#include "allocators/allocators.h"
#include "allocators/cascade.h"
#include "method_support.h"
#include "scorers/compactor.h"

namespace kvscope::testing {
namespace {

using ::testing::ElementsAre;

constexpr int tokens = 16;
constexpr int head_dim = 8;

/// Turns [heads, tokens, head_dim] by its token's angle, half-split.
at::Tensor turned(const at::Tensor& rows) {
  const at::Tensor band = at::arange(head_dim / 2, at::kDouble) * (-2.0 / head_dim);
  const at::Tensor angle =
      at::arange(tokens, at::kDouble).unsqueeze(1) * (band * std::log(10000.0)).exp();
  const at::Tensor wide = rows.to(at::kDouble);
  const at::Tensor a = wide.narrow(2, 0, head_dim / 2);
  const at::Tensor b = wide.narrow(2, head_dim / 2, head_dim / 2);
  return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, 2)
      .to(at::kFloat);
}

FakeRun appendix_run() {
  const at::Tensor hidden = generated(1, {tokens, 32});
  const auto projected = [&](std::uint32_t seed, std::int64_t heads) {
    const at::Tensor weight = generated(seed, {heads * head_dim, 32}, 0.5);
    return at::matmul(hidden, weight.t())
        .view({tokens, heads, head_dim})
        .transpose(0, 1)
        .contiguous();
  };
  FakeLayer tables;
  tables.queries = turned(projected(2, 4));
  tables.keys_pre_rope = projected(3, 2);
  tables.keys = turned(tables.keys_pre_rope);
  tables.values = projected(4, 2);
  tables.output_weights =
      generated(5, {32, 32}, 0.5).t().contiguous().view({4, head_dim, 32}).contiguous();
  return {{1, 4, 2, tokens, head_dim, 32}, {tables}};
}

void expect_rows(const Decision& decision, int first, const std::vector<double>& head0,
                 const std::vector<double>& head1, double relative = 2e-4) {
  for (const auto& [kv_head, expected] : {std::pair{0, head0}, std::pair{1, head1}}) {
    const std::vector<float> row = scores(decision, 0, kv_head);
    for (std::size_t at = 0; at < expected.size(); ++at) {
      EXPECT_NEAR(row[at + static_cast<std::size_t>(first)], expected[at],
                  relative * std::max(std::abs(expected[at]), 0.05))
          << "KV head " << kv_head << ", token " << at + static_cast<std::size_t>(first);
    }
  }
}

TEST(AppendixG, ExpectedAttention) {
  FakeRun run = appendix_run();
  expect_rows(decided(run, "expected_attention:future=32,sinks=2", "8"), 2,
              {0.0973954, 0.178906, 0.0874763, 0.164439, 0.102235, 0.143891, 0.136976, 0.142488,
               0.152467, 0.168424, 0.229091, 0.177927, 0.167605, 0.328632},
              {0.255534, 0.216493, 0.179303, 0.100991, 0.0994358, 0.194249, 0.169907, 0.164939,
               0.114659, 0.12248, 0.193675, 0.250049, 0.0834537, 0.169712});
  expect_rows(
      decided(run, "expected_attention:future=32,sinks=2,covariance=false,epsilon=0.02", "8"), 2,
      {0.102319, 0.181214, 0.126514, 0.23122, 0.129688, 0.185416, 0.183164, 0.202402, 0.212116,
       0.218058, 0.307987, 0.219568, 0.230254, 0.412253},
      {0.294185, 0.275501, 0.237207, 0.146106, 0.14023, 0.242788, 0.216076, 0.225374, 0.14567,
       0.160537, 0.269964, 0.212188, 0.122436, 0.247978});
}

TEST(AppendixG, Cap) {
  FakeRun run = appendix_run();
  expect_rows(decided(run, "cap:tau=5,future=32,sinks=2", "8"), 2,
              {0.0651414, 0.247867, 0.0358897, 0.117993, 0.13434, 0.430652, 0.17991, 0.171914,
               0.0592509, 0.389616, 0.450827, 0.499509, 0.423783, 0.466877},
              {0.61781, 0.66753, 0.11371, 0.0286513, 0.04139, 0.410899, 0.159068, 0.022653,
               0.192972, 0.119613, 0.446008, 0.120507, 0.0809327, 0.113319});
}

TEST(AppendixG, NonCausalAttention) {
  FakeRun run = appendix_run();
  expect_rows(decided(run, "non_causal:chunk=6", "8"), 0,
              {-0.505361, 0.0427654, -0.435237, -1.88804, -0.754475, -0.96471, -0.613295, -0.451663,
               0.00636791, -0.197058, -0.592653, 1.07168, 1.97731, 2.05298, 1.22144, -0.335656},
              {-0.950796, -0.164803, 1.01585, 0.782028, 0.951323, -0.570862, -0.569463, -0.480969,
               0.237731, -0.878776, -0.304565, 1.50075, 1.405, 0.899554, -0.951751, -1.55465});
}

/// Of two heads, each with its own sketch there: here one after the other, standardised together.
TEST(AppendixG, Leverage) {
  FakeRun run = appendix_run();
  const at::Tensor sketches = generated(99, {2, head_dim, 4}) / 2.0;
  std::vector<at::Tensor> heads;
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    heads.push_back(detail::leverage_of(run.tables(0).keys_pre_rope.narrow(0, kv_head, 1),
                                        sketches[kv_head], 0));
  }
  const at::Tensor plain = at::cat(heads, 0);
  EXPECT_GE(plain.min().item<double>(), 0);
  EXPECT_LT(plain.max().item<double>(), 1);
  EXPECT_LT(plain.sum(1).max().item<double>(), 4);
  const at::Tensor score = detail::standardised(plain);
  const std::vector<std::vector<double>> expected{
      {2.24053, -1.31946, 1.1168, 1.20407, -0.627681, 0.922591, 0.000892775, -0.406672, -1.36133,
       -1.05786, -0.7591, -0.4889, 0.743357, 0.798912, -0.0503917, -0.991912},
      {-0.820581, 0.799729, -0.857262, 0.754409, -0.108993, -0.76143, -0.594385, -0.957, -1.01775,
       1.87414, 0.215338, 0.206578, -1.18689, 1.25888, -0.19057, 1.42193}};
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    for (int token = 0; token < tokens; ++token) {
      EXPECT_NEAR(score[kv_head][token].item<double>(),
                  expected[static_cast<std::size_t>(kv_head)][static_cast<std::size_t>(token)],
                  2e-3);
    }
  }
}

TEST(AppendixG, CakeIndicatorAndPreference) {
  FakeRun run = appendix_run();
  expect_rows(decided(run, "cake:window=4,layers=uniform", "8"), 0,
              {0.396166, 0.510475, 0.576318, 0.732793, 1.13414, 1.03837, 0.959733, 0.90776,
               0.558162, 0.160807, 0.13469, 0.0990187},
              {0.308084, 0.353421, 0.370408, 0.450241, 0.713795, 0.597127, 0.684677, 0.708104,
               0.657249, 0.334618, 0.253322, 0.120435});
  EXPECT_NEAR(detail::make_cascade({4, 1.6, 0.4})->measure(*run.layer(0)), 0.0432216, 1e-5);
  EXPECT_NEAR(detail::make_cascade({4, 1, 1})->measure(*run.layer(0)), 31.4764 * 0.120167, 1e-3);
}

TEST(AppendixG, CakeRoundsAsTheAuthors) {
  EXPECT_THAT(detail::adjusted_slots({10.7, 200.2, 50.5, 38.6}, 300, 120),
              ElementsAre(38, 120, 78, 64));
  EXPECT_THAT(detail::adjusted_slots({1.5, 1.5, 9}, 9, 20), ElementsAre(1, 1, 7));
  EXPECT_THAT(detail::adjusted_slots({5, 5}, 30, 8), ElementsAre(15, 15));  // clipped when applied
}

/// Rows of query heads 0 and 1, then 2 and 3, as their groups' means.
std::vector<double> mean_of(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> mean;
  for (std::size_t at = 0; at < a.size(); ++at) {
    mean.push_back((a[at] + b[at]) / 2);
  }
  return mean;
}

TEST(AppendixG, CaoteAndFastCaote) {
  FakeRun run = appendix_run();
  expect_rows(
      decided(run, "caote", "8"), 0,
      mean_of({0.498927, 0.0243241, 0.029391, 0.290756, 0.0596062, 0.030806, 0.16659, 0.182132,
               0.0370167, 0.150175, 0.117272, 0.135123, 0.310866, 0.112671, 0.0891077, 0.0269203},
              {0.0917761, 0.153882, 0.104106, 0.125543, 0.0915895, 0.0762885, 0.101139, 0.177323,
               0.114452, 0.0887567, 0.0666202, 0.30173, 0.429214, 0.251348, 0.154903, 0.10262}),
      mean_of(
          {0.0494934, 0.0811163, 0.603105, 0.301778, 0.0726095, 0.0467793, 0.0391019, 0.344645,
           0.248862, 0.0364805, 0.0523545, 0.080975, 0.417557, 0.159342, 0.0675108, 0.0643768},
          {0.109298, 0.140433, 0.183735, 0.399027, 0.0448752, 0.0714157, 0.0615897, 0.284037,
           0.219743, 0.0485718, 0.0922709, 0.0616206, 0.149376, 0.0572089, 0.239931, 0.200714}));
  expect_rows(
      decided(run, "caote:output=mean", "8"), 0,
      mean_of({0.69043, 0.0214963, 0.0255417, 0.335489, 0.0573549, 0.0303056, 0.130767, 0.222063,
               0.0405795, 0.11741, 0.104674, 0.129903, 0.304953, 0.115813, 0.0829378, 0.0255212},
              {0.0974797, 0.149687, 0.0986447, 0.127236, 0.0927985, 0.0788615, 0.0913126, 0.177414,
               0.113998, 0.0806392, 0.063134, 0.297177, 0.438924, 0.272403, 0.161403, 0.100421}),
      mean_of(
          {0.0459999, 0.0770214, 0.673039, 0.348431, 0.0705234, 0.0498291, 0.0373419, 0.316482,
           0.266069, 0.0330964, 0.0494709, 0.0745468, 0.435894, 0.14277, 0.0758202, 0.0571078},
          {0.100265, 0.128003, 0.185706, 0.471037, 0.0419079, 0.0729106, 0.0660424, 0.276762,
           0.236485, 0.0469606, 0.0943537, 0.0550102, 0.152111, 0.0528611, 0.274273, 0.195893}));
}

TEST(AppendixG, ChunksOfSnapkv) {
  FakeRun run = appendix_run();
  const Decision decision = decided(run, "chunkkv:window=4,size=3", "0.5");
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(3, 4, 5, 12, 13, 14, 15));
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(3, 4, 5, 12, 13, 14, 15));
}

TEST(AppendixG, KeyDiffByBlocks) {
  FakeRun run = appendix_run();
  const Decision decision = decided(run, "keydiff:block=3", "0.5");
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 1, 2, 4, 6, 7, 11, 14));
  EXPECT_THAT(kept(decision, 0, 1), ElementsAre(0, 3, 4, 7, 8, 9, 10, 13));
}

TEST(AppendixG, SimLayerKvMeasuresALayer) {
  FakeRun run = appendix_run();
  const Decision decision =
      decided(run, "simlayerkv:threshold=0.9,recent=6,sinks=2,queries=1", "1.0");
  EXPECT_NEAR(scores(decision, 0, 0)[5], 0.9 - 0.4947, 1e-4);
  EXPECT_EQ(decision.kept_slots(), 2 * tokens);
  const Decision lazy = decided(run, "simlayerkv:threshold=0.4,recent=6,sinks=2,queries=1", "1.0");
  EXPECT_THAT(kept(lazy, 0, 1), ElementsAre(0, 1, 11, 12, 13, 14, 15));
  EXPECT_EQ(reason(lazy, 0, 1, 0), Reason::sink);
  EXPECT_EQ(reason(lazy, 0, 1, 11), Reason::recent);
  EXPECT_EQ(reason(lazy, 0, 1, 5), Reason::threshold);
}

TEST(AppendixG, FinchOfAQuestion) {
  FakeRun run = appendix_run();
  expect_rows(decided(run, "finch:window=4", "8"), 0,
              {0.956372, 0.511823, 1.1106, 1.26767, 0.800334, 1.00355, 1.52802, 1.30209, 0.511967,
               0.669685, 0.711105, 0.708749},
              {0.522154, 0.72657, 1.35422, 1.642, 0.431702, 0.892354, 0.945769, 0.927849, 1.28522,
               0.528144, 0.811726, 0.641109});
}

/// specs/baselines.md 0.9 and A12: without the value's norm, scores are a distribution.
TEST(AppendixG, ExpectedAttentionIsADistribution) {
  FakeRun run = appendix_run();
  const std::vector<float> row =
      scores(decided(run, "expected_attention:sinks=1,value=false", "8"), 0, 1);
  double sum = 0;
  for (int token = 1; token < tokens; ++token) {
    sum += static_cast<double>(row[static_cast<std::size_t>(token)]);
  }
  EXPECT_NEAR(sum, 1, 1e-5);
}

}  // namespace
}  // namespace kvscope::testing
