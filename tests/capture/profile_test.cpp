#include <gtest/gtest.h>

#include <set>

#include "kvscope/storage/capture_reader.h"
#include "recorded_run.h"

namespace kvscope::test {
namespace {

using Names = std::set<std::string>;

/// What specs/probe.md 5.2 asks of every capture, below /reduce, /layers and /steps.
const Names base = {"reduce/key_norm",
                    "reduce/value_norm",
                    "reduce/projected_value_norm",
                    "reduce/window_4/window_sum",
                    "reduce/window_4/window_sum_squares",
                    "reduce/window_4/window_max",
                    "reduce/window_sum",
                    "reduce/window_sum_squares",
                    "reduce/window_max",
                    "reduce/last_query",
                    "reduce/lse",
                    "reduce/self_check",
                    "steps/token",
                    "steps/time_ns",
                    "steps/stall_ns",
                    "steps/entropy",
                    "steps/lse",
                    "steps/sink_mass",
                    "steps/top_key",
                    "steps/top_probability",
                    "steps/cache_slots",
                    "steps/logit_token",
                    "steps/logit_logprob"};
const Names columns = {"reduce/attention_sum", "reduce/attention_max",
                       "reduce/attention_sum_squares", "reduce/entropy"};
const Names tensors = {"reduce/value_norm_l1",
                       "reduce/projected_value_norm_l1",
                       "layers/001/keys",
                       "layers/001/keys_pre_rope",
                       "layers/001/values",
                       "layers/001/queries",
                       "layers/001/output_factor",
                       "steps/queries",
                       "steps/keys",
                       "steps/values"};

Names operator+(Names a, const Names& b) {
  a.insert(b.begin(), b.end());
  return a;
}

class Profiles : public testing::TestWithParam<std::pair<Profile, Names>> {
 protected:
  void SetUp() override {
    request_.profile = GetParam().first;
    request_.windows = {4};
    request_.layers = {1};
    request_.stored_queries = 8;
    request_.new_tokens = 2;
    record(folder_ / "x.capture.h5", request_, fake_prompt(12));
    reader_ = std::make_unique<CaptureReader>(folder_ / "x.capture.h5");
  }

  CaptureFolder folder_;
  CaptureRequest request_;
  std::unique_ptr<CaptureReader> reader_;
};

TEST_P(Profiles, HoldExactlyTheirDatasets) {
  Names found;
  for (const std::string& name : reader_->datasets()) {
    if (name.starts_with("reduce/") || name.starts_with("layers/") || name.starts_with("steps/")) {
      found.insert(name);
    }
  }
  EXPECT_EQ(found, GetParam().second);
  for (const char* name :
       {"axes/layer", "axes/query_head", "axes/kv_head", "axes/token", "axes/step",
        "axes/layer_window", "axes/layer_rope_base", "tokens/id", "tokens/position",
        "tokens/segment", "tokens/text_bytes", "tokens/text_end", "status/state"}) {
    EXPECT_TRUE(reader_->has(name)) << name;
  }
}

TEST_P(Profiles, EveryNumberSaysWhatItIs) {
  for (const std::string& name : GetParam().second) {
    for (const char* attribute :
         {"units", "long_name", "formula", "queries", "group_reduce", "kernel"}) {
      EXPECT_NE(reader_->attribute(name, attribute), "") << name << " " << attribute;
    }
  }
}

TEST_P(Profiles, EverythingPromisedIsWritten) {
  for (const std::string& name : GetParam().second) {
    std::vector<std::int64_t> extent = reader_->shape(name);
    if (name.starts_with("reduce/attention_")) {
      extent.back() = 12;  // planned tokens: filled by decode statistics only
    }
    if (name.ends_with("top_key") || name.ends_with("top_probability")) {
      extent.back() = 12;
    }
    if (name.ends_with("logit_token") || name.ends_with("logit_logprob")) {
      extent.back() = 40;  // a vocabulary below 64
    }
    std::int64_t cells = 1;
    for (const std::int64_t size : extent) {
      cells *= size;
    }
    std::vector<float> values(static_cast<std::size_t>(cells));
    reader_->read(name, std::vector<std::int64_t>(extent.size(), 0), extent, std::span(values));
    for (const float value : values) {
      ASSERT_FALSE(std::isnan(value)) << name;
    }
  }
}

TEST_P(Profiles, CostWhatTheyWerePricedAt) {
  const CapturePrice price = price_capture(request_, fake_model()->shape(), 12, ElementType::f4);
  std::int64_t bytes = 0;
  for (const std::string& name : GetParam().second) {
    std::int64_t cells = name.ends_with("_ns") ? 8 : name.ends_with("top_probability") ? 2 : 4;
    for (const std::int64_t size : reader_->shape(name)) {
      cells *= size;
    }
    bytes += cells;
  }
  EXPECT_GE(price.disk_bytes, bytes);
  EXPECT_LE(price.disk_bytes, bytes + (1 << 17));
}

INSTANTIATE_TEST_SUITE_P(All, Profiles,
                         testing::Values(std::pair{Profile::window, base},
                                         std::pair{Profile::scores, base + columns},
                                         std::pair{Profile::qkv, base + columns + tensors},
                                         std::pair{Profile::full, base + columns + tensors}),
                         [](const auto& one) { return profile_name(one.param.first); });

TEST(Request, MapsArePricedAtTheirSquare) {
  CaptureRequest request;
  const ModelShape shape = fake_model()->shape();
  const std::int64_t without = price_capture(request, shape, 1000, ElementType::f4).disk_bytes;
  request.attention_maps = true;
  const std::int64_t with = price_capture(request, shape, 1000, ElementType::f4).disk_bytes;
  EXPECT_EQ(with - without, std::int64_t{2} * 2 * 4 * 1000 * 1000);  // 2 layers, float16
}

TEST(Recorder, LeavesNothingWhenTheRunFails) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.windows = {4};
  const auto model = fake_model();
  const TokenTable prompt = fake_prompt(12);
  {
    Recorder recorder(
        folder / "x.capture.h5", request, index_for(*model, prompt, request), prompt,
        [](int) -> at::Tensor { throw Error(ErrorCode::failed, "no factor"); },
        [](int) -> at::Tensor { throw Error(ErrorCode::failed, "no weights"); });
    LiveRunOptions options;
    const auto run = LiveRun::start(model, prompt, options);
    EXPECT_THROW(run->prefill(false, &recorder), Error);
  }
  EXPECT_TRUE(folder.empty());
}

TEST(Recorder, WindowsBeyondThePromptAreClippedAndStoredAsClipped) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.windows = {4, 32, 64};
  record(folder / "x.capture.h5", request, fake_prompt(12));
  const CaptureReader reader(folder / "x.capture.h5");
  EXPECT_EQ(reader.index().windows, (std::vector<int>{4, 12}));
  EXPECT_TRUE(reader.has("reduce/window_12/window_sum"));
  EXPECT_EQ(reader.attribute("reduce/window_sum", "queries"), "last 12 prompt queries");
}

TEST(Recorder, OneTokenIsAPrompt) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.profile = Profile::full;
  record(folder / "x.capture.h5", request, fake_prompt(1));
  const CaptureReader reader(folder / "x.capture.h5");
  for (std::size_t head = 0; head < 4; ++head) {
    EXPECT_NEAR(reader.read_plane("attention_sum", 0, 1)[head], 1.0f, 1e-6);
    EXPECT_NEAR(reader.read_plane("entropy", 0, 1)[head], 0.0f, 1e-6);
  }
}

TEST(Recorder, Bfloat16CachesAreStoredAsTheyAre) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.profile = Profile::full;
  const auto run = record(folder / "x.capture.h5", request, fake_prompt(12), 0, "bfloat16");
  const CaptureReader reader(folder / "x.capture.h5");
  std::vector<float> keys(2 * 12 * 8);
  reader.read("layers/001/keys", {0, 0, 0}, {2, 12, 8}, std::span(keys));
  const at::Tensor live = run->layer(1)->keys(Frame::post_rope).contiguous();
  for (std::size_t cell = 0; cell < keys.size(); ++cell) {
    EXPECT_EQ(keys[cell], live.const_data_ptr<float>()[cell]) << cell;
  }
}

/// The last chunk of a prompt may be one row, as a decode step's is.
TEST(Recorder, Bfloat16PromptsMayEndInAChunkOfOneRow) {
  const CaptureFolder folder;
  for (const Profile profile : {Profile::window, Profile::full}) {
    CaptureRequest request;
    request.profile = profile;
    request.windows = {4};
    request.new_tokens = 2;
    request.force = true;
    record(folder / "x.capture.h5", request, fake_prompt(9), 4, "bfloat16");
    const CaptureReader reader(folder / "x.capture.h5");
    const std::vector<float> sum = reader.read_plane("window_sum", 0, 9);
    double total = 0;
    for (std::size_t token = 0; token < 9; ++token) {
      total += static_cast<double>(sum[token]);
    }
    EXPECT_NEAR(total, 4, 1e-5);
  }
}

}  // namespace
}  // namespace kvscope::test
