#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/file_kind.h"
#include "read_whole.h"
#include "recorded_run.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 12;
constexpr int new_tokens = 6;

std::vector<HookPoint> every_point() {
  std::vector<HookPoint> points;
  for (int index = 0; index < hook_points; ++index) {
    points.push_back(static_cast<HookPoint>(index));
  }
  return points;
}

void expect_equal(const std::vector<float>& found, const at::Tensor& expected,
                  const std::string& what) {
  const at::Tensor flat = expected.contiguous().view({-1});
  ASSERT_EQ(static_cast<std::int64_t>(found.size()), flat.numel()) << what;
  for (std::size_t cell = 0; cell < found.size(); ++cell) {
    ASSERT_EQ(found[cell], flat.const_data_ptr<float>()[cell]) << what << " " << cell;
  }
}

/// What an observer of the same run sees: [n or T, columns] or [heads, n or T, head_dim] of the
/// prompt and one row for each step.
class Observed {
 public:
  explicit Observed(int chunk, int steps = new_tokens) {
    LiveRunOptions options;
    options.prefill_chunk = chunk;
    options.hook = [this](HookPoint point, int layer, int, const at::Tensor& tensor) {
      seen_[{point, of_model(point) ? 0 : layer}].push_back(tensor.to(at::kFloat).clone());
    };
    const auto run = LiveRun::start(fake_model(), fake_prompt(prompt_tokens), options);
    run->prefill(false, nullptr);
    passes_ = seen_.begin()->second.size();
    for (int step = 1; step <= steps; ++step) {
      run->decode(2 + step, nullptr);
    }
    logits_ = run->prompt_logits();
  }

  at::Tensor prompt(HookPoint point, int layer) const {
    if (point == HookPoint::logits) {
      return logits_;
    }
    const auto& all = seen_.at({point, layer});
    const std::vector<at::Tensor> passes(all.begin(),
                                         all.begin() + static_cast<std::ptrdiff_t>(passes_));
    return at::cat(passes, passes[0].dim() - 2);
  }
  at::Tensor step(HookPoint point, int layer, int step) const {
    const at::Tensor pass =
        seen_.at({point, layer}).at(passes_ + static_cast<std::size_t>(step) - 1);
    return pass.select(pass.dim() - 2, -1);
  }

 private:
  std::map<std::pair<HookPoint, int>, std::vector<at::Tensor>> seen_;
  std::size_t passes_ = 0;
  at::Tensor logits_;
};

bool profile_owns(HookPoint point) {
  return point == HookPoint::queries || point == HookPoint::keys || point == HookPoint::values;
}

class Hooks : public testing::TestWithParam<int> {};

TEST_P(Hooks, FileHoldsWhatAnObserverSees) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.profile = Profile::full;
  request.windows = {4};
  request.new_tokens = new_tokens;
  request.hooks = every_point();
  record(folder / "x.capture.h5", request, fake_prompt(prompt_tokens), GetParam());
  const CaptureReader reader(folder / "x.capture.h5");
  const Observed observed(GetParam());
  for (const HookPoint point : every_point()) {
    const std::string name = hook_name(point);
    for (int layer = 0; layer < (of_model(point) ? 1 : 2); ++layer) {
      if (!profile_owns(point)) {
        const std::string path = of_model(point) ? "model/" + name : layer_dataset(layer, name);
        if (point == HookPoint::logits) {  // rows of a product in other blocks
          const at::Tensor expected = observed.prompt(point, 0).contiguous().view({-1});
          const std::vector<float> found = read_whole(reader, path);
          for (std::size_t cell = 0; cell < found.size(); ++cell) {
            ASSERT_NEAR(found[cell], expected.const_data_ptr<float>()[cell], 2e-5);
          }
        } else {
          expect_equal(read_whole(reader, path), observed.prompt(point, layer), path);
        }
      }
      for (int step = 1; step <= new_tokens && point != HookPoint::logits; ++step) {
        std::vector<std::int64_t> count = reader.shape("steps/" + name);
        std::vector<std::int64_t> offset(count.size(), 0);
        offset[0] = step - 1;
        count[0] = 1;
        if (!of_model(point)) {
          offset[1] = layer;
          count[1] = 1;
        }
        const at::Tensor expected = observed.step(point, layer, step);
        std::vector<float> found(static_cast<std::size_t>(expected.numel()));
        reader.read("steps/" + name, offset, count, std::span(found));
        expect_equal(found, expected, name + " of a step");
      }
    }
  }
  EXPECT_EQ(check_file(folder / "x.capture.h5"), std::vector<std::string>{});
}

INSTANTIATE_TEST_SUITE_P(Chunks, Hooks, testing::Values(0, 5));

TEST(HookSelection, StoresTheChosenTokensHeadsAndSteps) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.profile = Profile::qkv;
  request.windows = {4};
  request.layers = {1};
  request.new_tokens = new_tokens;
  request.hooks = {HookPoint::queries_pre_rope, HookPoint::keys_raw, HookPoint::residual_out,
                   HookPoint::embedding};
  request.hook_tokens = "2,5-7,11";
  request.query_heads = "1,3";
  request.kv_heads = "1";
  request.steps = "every:2";
  record(folder / "x.capture.h5", request, fake_prompt(prompt_tokens), 5);
  const CaptureReader reader(folder / "x.capture.h5");
  const CaptureIndex& index = reader.index();
  EXPECT_EQ(index.hook_tokens, (std::vector<int>{2, 5, 6, 7, 11}));
  EXPECT_EQ(index.query_heads, (std::vector<int>{1, 3}));
  EXPECT_EQ(index.kv_heads, std::vector<int>{1});
  EXPECT_EQ(index.step_numbers, (std::vector<int>{2, 4, 6}));
  EXPECT_EQ(index.steps, 3);
  EXPECT_FALSE(index.every_step());
  EXPECT_EQ(reader.tokens().size(), prompt_tokens + new_tokens);  // every token, whatever is stored
  const Observed observed(5);
  const at::Tensor tokens = at::tensor({2, 5, 6, 7, 11}, at::kLong);
  const at::Tensor heads = at::tensor({1, 3}, at::kLong);
  expect_equal(read_whole(reader, "layers/001/queries_pre_rope"),
               observed.prompt(HookPoint::queries_pre_rope, 1)
                   .index_select(0, heads)
                   .index_select(1, tokens),
               "queries_pre_rope");
  expect_equal(read_whole(reader, "layers/001/keys_raw"),
               observed.prompt(HookPoint::keys_raw, 1).narrow(0, 1, 1).index_select(1, tokens),
               "keys_raw");
  expect_equal(read_whole(reader, "model/embedding"),
               observed.prompt(HookPoint::embedding, 0).index_select(0, tokens), "embedding");
  EXPECT_EQ(reader.shape("steps/residual_out"), (std::vector<std::int64_t>{3, 1, 24}));
  std::vector<float> row(24);
  reader.read("steps/residual_out", {1, 0, 0}, {1, 1, 24}, std::span(row));
  // The run that is not watched at each step adds products to the stream in one go.
  const at::Tensor expected = observed.step(HookPoint::residual_out, 1, 4);
  for (std::size_t channel = 0; channel < 24; ++channel) {
    EXPECT_NEAR(row[channel], expected.const_data_ptr<float>()[channel], 1e-4);
  }
  EXPECT_EQ(check_file(folder / "x.capture.h5"), std::vector<std::string>{});
}

TEST(HookSelection, HeadsOfEveryDatasetAreThoseOfAWholeCapture) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.profile = Profile::full;
  request.windows = {4};
  request.new_tokens = 3;
  request.attention_maps = true;
  request.top_keys = 3;
  request.pooled_block = 4;
  record(folder / "whole.capture.h5", request, fake_prompt(prompt_tokens));
  request.query_heads = "0,3";
  request.kv_heads = "last:1";
  request.steps = "3";
  record(folder / "part.capture.h5", request, fake_prompt(prompt_tokens));
  const CaptureReader whole(folder / "whole.capture.h5");
  const CaptureReader part(folder / "part.capture.h5");
  int with_heads = 0;
  for (const std::string& name : part.datasets()) {
    if (name.ends_with("_ns") || name.starts_with("axes/") || name.starts_with("tokens/") ||
        name.starts_with("status/")) {
      continue;
    }
    std::vector<std::int64_t> extent = whole.shape(name);
    std::vector<float> all = read_whole(whole, name);
    at::Tensor expected = at::from_blob(all.data(), extent, at::kFloat).clone();
    for (std::int64_t axis = 0; axis < expected.dim(); ++axis) {
      const std::int64_t found = part.shape(name).at(static_cast<std::size_t>(axis));
      if (found == expected.size(axis)) {
        continue;
      }
      const bool steps = name.starts_with("steps/") && axis == 0;
      const std::vector<std::int64_t> kept = steps        ? std::vector<std::int64_t>{2}
                                             : found == 2 ? std::vector<std::int64_t>{0, 3}
                                                          : std::vector<std::int64_t>{1};
      with_heads += steps ? 0 : 1;
      expected = expected.index_select(axis, at::tensor(kept, at::kLong));
    }
    const std::vector<float> found = read_whole(part, name);
    const at::Tensor flat = expected.contiguous().view({-1});
    ASSERT_EQ(static_cast<std::int64_t>(found.size()), flat.numel()) << name;
    for (std::size_t cell = 0; cell < found.size(); ++cell) {
      const float value = flat.const_data_ptr<float>()[cell];
      ASSERT_TRUE(found[cell] == value || (std::isnan(found[cell]) && std::isnan(value)))
          << name << " " << cell;
    }
  }
  EXPECT_GT(with_heads, 30);
}

TEST(HookSelection, HeadsLeftOutAreMissedByNameWhereAllAreNeeded) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.profile = Profile::full;
  request.query_heads = "0";
  record(folder / "x.capture.h5", request, fake_prompt(prompt_tokens));
  const CaptureReader reader(folder / "x.capture.h5");
  try {
    require_all_heads(reader.index());
    ADD_FAILURE() << "all heads?";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::missing_data);
    EXPECT_NE(error.message().find("1 of 4 query heads"), std::string::npos) << error.message();
  }
}

TEST(HookSelection, PricesAndRefusals) {
  CaptureRequest request;
  const ModelShape shape = fake_model()->shape();
  const auto bytes = [&] {
    return price_capture(request, shape, 1000, ElementType::f4).disk_bytes;
  };
  const std::int64_t without = bytes();
  request.hooks = {HookPoint::residual_mid, HookPoint::logits};
  EXPECT_EQ(bytes() - without, std::int64_t{4} * 1000 * (2 * 24 + 40));
  request.hook_tokens = "every:10";
  request.new_tokens = 50;
  request.steps = "every:10";
  const std::int64_t sparse = bytes();
  request.hooks.clear();
  EXPECT_EQ(sparse - bytes(), std::int64_t{4} * (100 + 5) * (2 * 24 + 40));
  request.hooks = {HookPoint::keys};
  EXPECT_THROW(bytes(), Error);  // profile window has none
  request.profile = Profile::qkv;
  bytes();
}

TEST(HookSelection, Bfloat16RunsStoreBfloat16) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.hooks = {HookPoint::residual_out, HookPoint::attention_output, HookPoint::logits};
  record(folder / "x.capture.h5", request, fake_prompt(prompt_tokens), 0, "bfloat16");
  for (const std::string& line : describe_datasets(folder / "x.capture.h5")) {
    if (line.find("/residual_out") != std::string::npos ||
        line.find("/attention_output") != std::string::npos) {
      EXPECT_NE(line.find("bfloat16"), std::string::npos) << line;
    }
    if (line.find("model/logits") != std::string::npos) {
      EXPECT_NE(line.find("float32"), std::string::npos) << line;
    }
  }
}

}  // namespace
}  // namespace kvscope::test
