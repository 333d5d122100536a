#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "float64_attention.h"
#include "kvscope/storage/file_kind.h"
#include "logit_rows.h"
#include "read_whole.h"
#include "recorded_run.h"
#include "sampled_sum.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 12;
constexpr float never = -std::numeric_limits<float>::infinity();

/// A capture that holds every query, to work the others out from.
class AttentionRows : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    CaptureRequest request;
    request.profile = Profile::full;
    request.windows = {4};
    record(folder_ / "full.capture.h5", request, fake_prompt(prompt_tokens));
    full_ = std::make_unique<CaptureReader>(folder_ / "full.capture.h5");
  }
  CaptureReader with(const CaptureRequest& request) const {
    record(folder_ / "x.capture.h5", request, fake_prompt(prompt_tokens), GetParam());
    EXPECT_EQ(check_file(folder_ / "x.capture.h5"), std::vector<std::string>{});
    return CaptureReader(folder_ / "x.capture.h5");
  }

  CaptureFolder folder_;
  std::unique_ptr<CaptureReader> full_;
};

INSTANTIATE_TEST_SUITE_P(Chunks, AttentionRows, testing::Values(0, 5));

TEST_P(AttentionRows, SampledSumsAreThoseOfTheSampledQueriesAlone) {
  CaptureRequest request;
  request.windows = {4};
  request.sample_queries = 3;
  request.query_heads = "0,3";
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{5}}) {
    request.seed = seed;
    request.force = true;
    const CaptureReader reader = with(request);
    const detail::QuerySample sample = detail::sample_of(request, prompt_tokens);
    EXPECT_EQ(sample.count, 4);
    const auto found = read_whole(reader, "reduce/attention_sum_sampled");
    ASSERT_EQ(reader.shape("reduce/attention_sum_sampled"),
              (std::vector<std::int64_t>{2, 2, prompt_tokens}));
    EXPECT_FALSE(reader.has("reduce/attention_sum")) << "nobody takes it for the exact one";
    for (int layer = 0; layer < 2; ++layer) {
      for (const int head : {0, 3}) {
        const auto map = float64_map(*full_, layer, head);
        for (int key = 0; key < prompt_tokens; ++key) {
          double expected = 0;
          for (int query = sample.first; query < prompt_tokens; query += 3) {
            expected += map[static_cast<std::size_t>(query)][static_cast<std::size_t>(key)];
          }
          const int cell = (layer * 2 + (head > 0)) * prompt_tokens + key;
          EXPECT_NEAR(found[static_cast<std::size_t>(cell)], expected, 2e-6) << seed << " " << key;
        }
      }
    }
  }
}

TEST(SampledQueries, AndLogitsOfABfloat16CacheAddUp) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.windows = {4};
  request.sample_queries = 2;
  request.logit_maps = request.keys_gradient = true;
  request.new_tokens = 2;
  record(folder / "x.capture.h5", request, fake_prompt(prompt_tokens), 5, "bfloat16");
  EXPECT_EQ(check_file(folder / "x.capture.h5"), std::vector<std::string>{});
  const CaptureReader reader(folder / "x.capture.h5");
  const auto sums = read_whole(reader, "reduce/attention_sum_sampled");
  EXPECT_NEAR(std::accumulate(sums.begin(), sums.end(), 0.0), 2 * 4 * 6, 1e-3);
  const auto logits = read_whole(reader, layer_dataset(0, "logits_attention"));
  const auto lse = reader.read_plane("lse", 0, prompt_tokens);
  for (std::size_t row = 0; row < lse.size(); ++row) {
    double total = 0;
    for (std::size_t key = 0; key < prompt_tokens; ++key) {
      total += std::exp(static_cast<double>(logits[row * prompt_tokens + key]));
    }
    EXPECT_NEAR(std::log(total), lse[row], 1e-4);
  }
}

TEST(SampledQueries, FirstOneIsDrawnFromTheSeed) {
  CaptureRequest request;
  request.sample_queries = 4;
  std::set<int> first;
  for (request.seed = 0; request.seed < 40; ++request.seed) {
    const detail::QuerySample sample = detail::sample_of(request, 10);
    first.insert(sample.first);
    EXPECT_EQ(sample.count, sample.first < 2 ? 3 : 2);
  }
  EXPECT_EQ(first, (std::set<int>{0, 1, 2, 3}));
  request.sample_queries = 100;  // at least one query, however short the prompt
  for (request.seed = 0; request.seed < 40; ++request.seed) {
    EXPECT_EQ(detail::sample_of(request, 3).count, 1);
  }
}

TEST(SampledQueries, CostTheirShareOfTheExactSums) {
  const ModelShape shape = fake_model()->shape();
  CaptureRequest request;
  request.windows.clear();
  const auto flop = [&] { return price_capture(request, shape, 4000, ElementType::f4).extra_flop; };
  const double nothing = flop();
  request.sample_queries = 8;
  const double sampled = flop() - nothing;
  request.sample_queries = 0;
  request.profile = Profile::scores;
  EXPECT_NEAR(sampled * 8 / flop(), 1.0, 1e-9);
}

/// One channel, scale 2, cap 4: s = 4 tanh(2 q k / 4), and what the window hides.
TEST(Logits, ByHand) {
  ModelShape shape;
  shape.attention_scale = 2;
  const at::Tensor queries = at::tensor({1.0f, 2.0f}).unsqueeze(1);
  const at::Tensor keys = at::tensor({1.0f, -1.0f, 3.0f, 0.5f}).unsqueeze(1);
  const at::Tensor positions = at::tensor({1, 3}, at::kLong);
  const auto logits = [&](int window) {
    const at::Tensor rows =
        detail::attention_logits(queries, keys, positions, shape, window).contiguous();
    return std::vector<float>(rows.const_data_ptr<float>(), rows.const_data_ptr<float>() + 8);
  };
  EXPECT_EQ(logits(0), (std::vector<float>{2, -2, never, never, 4, -4, 12, 2}));
  EXPECT_EQ(logits(2), (std::vector<float>{2, -2, never, never, never, never, 12, 2}));
  shape.logit_softcap = 4;
  const auto capped = logits(0);
  EXPECT_NEAR(capped[6], 4 * std::tanh(3.0), 1e-6);
  EXPECT_EQ(capped[2], never) << "the mask is not capped";
}

TEST_P(AttentionRows, LogitsOfChosenTokensAreThoseOfTheirQueries) {
  CaptureRequest request;
  request.windows = {4};
  request.logit_maps = true;
  request.hook_tokens = "2,5-7,11";
  request.query_heads = "1,3";
  request.layers = {1};
  const CaptureReader reader = with(request);
  const std::string name = "layers/001/logits_attention";
  ASSERT_EQ(reader.shape(name), (std::vector<std::int64_t>{2, 5, prompt_tokens}));
  const auto found = read_whole(reader, name);
  const auto lse = full_->read_plane("lse", 1, prompt_tokens);
  const int tokens[] = {2, 5, 6, 7, 11};
  for (int head_row = 0; head_row < 2; ++head_row) {
    const int head = 1 + 2 * head_row;
    const auto map = float64_map(*full_, 1, head);
    for (int row = 0; row < 5; ++row) {
      const auto query = static_cast<std::size_t>(tokens[row]);
      const auto norm =
          static_cast<double>(lse[static_cast<std::size_t>(head) * prompt_tokens + query]);
      for (std::size_t key = 0; key < prompt_tokens; ++key) {
        const float s = found[static_cast<std::size_t>(head_row * 5 + row) * prompt_tokens + key];
        if (key > query) {
          EXPECT_EQ(s, never);
        } else {
          EXPECT_NEAR(s, std::log(map[query][key]) + norm, 1e-5) << head << " " << query;
        }
      }
    }
  }
}

TEST(Logits, ArePricedByTheirRows) {
  CaptureRequest request;
  const ModelShape shape = fake_model()->shape();
  const auto price = [&] { return price_capture(request, shape, 1000, ElementType::f4); };
  const CapturePrice without = price();
  request.logit_maps = true;
  const CapturePrice all = price();
  EXPECT_EQ(all.disk_bytes - without.disk_bytes, std::int64_t{2} * 4 * 1000 * 1000 * 4);
  request.hook_tokens = "every:10";
  const CapturePrice some = price();
  EXPECT_EQ(some.disk_bytes - without.disk_bytes, std::int64_t{2} * 4 * 100 * 1000 * 4);
  EXPECT_NEAR((all.extra_flop - without.extra_flop) / (some.extra_flop - without.extra_flop), 10,
              1e-9);
  request.steps = "decode";
  request.new_tokens = 7;
  const std::int64_t steps = price().disk_bytes;
  request.logit_maps = false;
  EXPECT_EQ(steps - price().disk_bytes, std::int64_t{7} * 2 * 4 * 1007 * 4);
}

TEST_P(AttentionRows, KeysGradientIsThatOfTheWholePromptAndTouchesNothingElse) {
  CaptureRequest request;
  request.windows = {4};
  const CaptureReader plain = with(request);
  request.keys_gradient = true;
  request.hook_tokens = "0,3,11";
  request.kv_heads = "1";
  request.force = true;
  const CaptureReader reader = with(request);
  std::map<int, at::Tensor> expected;
  ForwardRequest pass;
  pass.append = false;
  pass.key_gradient = KeyGradient::float32;
  pass.observe = [&](const LayerEvidence& evidence) {
    expected[evidence.moment().layer] = evidence.key_gradient().clone();
  };
  const TokenTable prompt = fake_prompt(prompt_tokens);
  LiveRun::start(fake_model(), prompt, {})->forward(prompt.id, pass);
  for (int layer = 0; layer < 2; ++layer) {
    const auto found = read_whole(reader, layer_dataset(layer, "keys_gradient"));
    ASSERT_EQ(found.size(), 3u * 8u);
    const int tokens[] = {0, 3, 11};
    double energy = 0;
    for (int row = 0; row < 3; ++row) {
      for (int channel = 0; channel < 8; ++channel) {
        const float value = found[static_cast<std::size_t>(row * 8 + channel)];
        EXPECT_EQ(value, expected.at(layer)[1][tokens[row]][channel].item<float>());
        energy += row < 2 ? static_cast<double>(value) * static_cast<double>(value) : 0;
        EXPECT_TRUE(row < 2 || value == 0) << "no query but the last reads the last key";
      }
    }
    EXPECT_GT(energy, 0);
  }
  for (const std::string& name : plain.datasets()) {
    if (name.starts_with("reduce/") && reader.shape(name) == plain.shape(name)) {
      EXPECT_EQ(read_whole(reader, name), read_whole(plain, name)) << name;
    }
  }
}

TEST(KeysGradient, NeedsThePromptAndTwoTokens) {
  CaptureRequest request;
  const ModelShape shape = fake_model()->shape();
  const auto price = [&](int tokens) {
    return price_capture(request, shape, tokens, ElementType::f4);
  };
  const CapturePrice without = price(1000);
  request.keys_gradient = true;
  EXPECT_EQ(price(1000).disk_bytes - without.disk_bytes, std::int64_t{2} * 2 * 1000 * 8 * 4);
  EXPECT_EQ(price(1000).extra_passes, 3);
  EXPECT_GT(price(1000).memory_bytes, without.memory_bytes);
  EXPECT_THROW(price(1), Error);
  request.steps = "decode";
  EXPECT_THROW(price(1000), Error);
  const auto run = LiveRun::start(fake_model(), fake_prompt(4), {});
  request = {};
  request.keys_gradient = true;
  const CaptureFolder folder;
  const auto model = fake_model();
  Recorder recorder(
      folder / "x.capture.h5", request, index_for(*model, fake_prompt(4), request), fake_prompt(4),
      [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  run->prefill(false, nullptr);
  EXPECT_THROW(record_keys_gradient(*run, recorder), Error) << "the prompt was run already";
}

}  // namespace
}  // namespace kvscope::test
