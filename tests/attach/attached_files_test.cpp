#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "attached_model.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/file_kind.h"
#include "read_whole.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 19;
constexpr int steps = 7;

bool compared(const std::string& name) {
  return !name.starts_with("status/") && !name.starts_with("tokens/text") &&
         !name.ends_with("_ns") && name != "reduce/self_check";
}

/// Everything in both files but times and texts agrees within float rounding.
void expect_same(const std::string& own_path, const std::string& attached_path,
                 const std::vector<std::string>& but = {}) {
  const CaptureReader own(own_path);
  const CaptureReader attached(attached_path);
  EXPECT_EQ(own.datasets(), attached.datasets());
  int count = 0;
  for (const std::string& name : own.datasets()) {
    if (!compared(name) || std::find(but.begin(), but.end(), name) != but.end()) {
      continue;
    }
    const std::vector<float> expected = read_whole(own, name);
    const std::vector<float> found = read_whole(attached, name);
    ASSERT_EQ(expected.size(), found.size()) << name;
    for (std::size_t cell = 0; cell < expected.size(); ++cell) {
      ASSERT_EQ(std::isnan(expected[cell]), std::isnan(found[cell])) << name << " " << cell;
      if (!std::isnan(expected[cell])) {
        ASSERT_NEAR(found[cell], expected[cell], 2e-5 * (1 + std::abs(expected[cell])))
            << name << " " << cell;
      }
    }
    ++count;
  }
  EXPECT_GT(count, 25);
  EXPECT_EQ(own.index().capture_hash, attached.index().capture_hash);
  EXPECT_EQ(check_file(attached_path), std::vector<std::string>{});
}

struct Case {
  const char* name;
  const char* profile;
  bool window;
  double softcap;
  int chunk;
  AttachedModel::Cache cache;
};

class AttachedFiles : public testing::TestWithParam<Case> {};

TEST_P(AttachedFiles, AreThoseOfOurOwnRecorder) {
  const Case& one = GetParam();
  const CaptureFolder folder;
  const TokenTable prompt = asked_prompt(prompt_tokens, 4);
  const auto model = attached_model(one.window, one.softcap);
  nlohmann::json request =
      request_for(folder / "attached.capture.h5", model->shape(), one.profile, steps);
  request["head_output_norm"] = true;
  request["received_by_segment"] = true;
  request["top_keys"] = 3;
  AttachedModel attached(model, prompt, one.chunk, one.cache, request);
  attached.operators().give_prompt(prompt.id, prompt.context_tokens);
  CaptureRequest own;
  own.profile = parse_profile(one.profile);
  own.windows = {4};
  own.new_tokens = steps;
  own.head_output_norm = own.received_by_segment = true;
  own.top_keys = 3;
  Recorder recorder(
      folder / "own.capture.h5", own, index_for(*model, prompt, own), prompt,
      [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  attached.prefill(&recorder);
  recorder.prefill_logits(attached.run().logits());
  for (int step = 1; step <= steps; ++step) {
    attached.decode(2 + step, &recorder);
  }
  recorder.finish(steps);
  const nlohmann::json report = attached.operators().close();
  ASSERT_EQ(report.at("error"), "");
  EXPECT_EQ(report.at("steps"), steps);
  EXPECT_EQ(report.at("path"), folder / "attached.capture.h5");
  // A sliding cache has fewer slots, and its unseen tokens are no keys of probability zero.
  std::vector<std::string> but;
  if (one.cache == AttachedModel::Cache::sliding) {
    but = {"steps/cache_slots", "steps/top_key", "steps/top_probability"};
  }
  expect_same(folder / "own.capture.h5", folder / "attached.capture.h5", but);
  const CaptureIndex index = CaptureReader(folder / "attached.capture.h5").index();
  EXPECT_EQ(index.attached_to, "a test");
  EXPECT_EQ(index.method, "full");
}

using enum AttachedModel::Cache;

INSTANTIATE_TEST_SUITE_P(
    Runs, AttachedFiles,
    testing::Values(Case{"window", "window", false, 0, 0, full},
                    Case{"scores", "scores", false, 0, 0, full},
                    Case{"qkv", "qkv", false, 0, 0, full}, Case{"full", "full", false, 0, 0, full},
                    Case{"softcap", "full", false, 2.5, 0, full},
                    Case{"chunks", "full", false, 0, 5, full},
                    Case{"sliding_layer", "full", true, 0, 0, full},
                    Case{"sliding_cache", "full", true, 0, 0, sliding},
                    Case{"sliding_cache_chunks", "full", true, 1.5, 4, sliding},
                    Case{"static_cache", "full", true, 0, 0, padded},
                    Case{"static_cache_chunks", "full", false, 0, 5, padded}),
    [](const auto& one) { return std::string(one.param.name); });

TEST(Attached, TheFirstPassIsThePromptAndItsTextIsKept) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const TokenTable prompt = fake_prompt(5);
  AttachedModel attached(model, prompt, 0, full,
                         request_for(folder / "x.capture.h5", model->shape(), "window", 2));
  attached.prefill(nullptr);
  attached.decode(7, nullptr);
  ASSERT_EQ(attached.operators().close().at("error"), "");
  const CaptureReader reader(folder / "x.capture.h5");
  EXPECT_EQ(reader.index().prompt_tokens, 5);
  EXPECT_EQ(reader.index().context_tokens, 5);
  EXPECT_EQ(reader.tokens().text(0, 6), "abcdef");
  EXPECT_EQ(reader.tokens().segment.back(), Segment::generated);
}

TEST(Attached, WhatWasNotPlannedForIsLeftOutAndSaid) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  AttachedModel attached(model, fake_prompt(5), 0, full,
                         request_for(folder / "x.capture.h5", model->shape(), "window", 2));
  attached.prefill(nullptr);
  for (int step = 1; step <= 5; ++step) {
    attached.decode(7, nullptr);
  }
  const nlohmann::json report = attached.operators().close();
  EXPECT_EQ(report.at("error"), "");
  EXPECT_EQ(report.at("steps"), 2);
  ASSERT_EQ(report.at("notes").size(), 1u);
  EXPECT_NE(report.at("notes")[0].get<std::string>().find("3 tokens beyond the 2"),
            std::string::npos);
  const CaptureReader reader(folder / "x.capture.h5");
  EXPECT_EQ(reader.index().steps, 2);
  EXPECT_EQ(reader.index().state, 4);
  EXPECT_NE(reader.index().message.find("new_tokens"), std::string::npos);
}

TEST(Attached, HookPointsAndLogitsAreStoredByName) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  nlohmann::json request = request_for(folder / "x.capture.h5", model->shape(), "window", 1);
  request["hooks"] = {"residual_in", "logits"};
  const Operators operators(request, output_weights_of(*model));
  const auto pass = [&](int first, int rows) {
    operators.begin_pass(std::vector<std::int32_t>(static_cast<std::size_t>(rows), 3), first);
    for (int layer = 0; layer < 2; ++layer) {
      operators.hook("residual_in", layer, at::zeros({rows, 24}).add_(first + layer));
      SeenAttention seen;
      seen.layer = layer;
      seen.query = at::zeros({1, 4, rows, 8});
      seen.key = seen.value = at::zeros({1, 2, first + rows, 8});
      seen.scale = model->shape().attention_scale;
      seen.mask = built_mask(first, rows, 0, first + rows, 0);
      operators.attention(seen);
    }
    operators.end_pass(at::zeros({rows, 40}).add_(first));
  };
  pass(0, 3);
  pass(3, 1);
  ASSERT_EQ(operators.close().at("error"), "");
  const CaptureReader reader(folder / "x.capture.h5");
  EXPECT_EQ(read_whole(reader, "layers/001/residual_in"), std::vector<float>(3 * 24, 1.0f));
  EXPECT_EQ(read_whole(reader, "steps/residual_in").back(), 4.0f);
  EXPECT_EQ(read_whole(reader, "model/logits"), std::vector<float>(3 * 40, 0.0f));
  EXPECT_EQ(read_whole(reader, "steps/logits"), std::vector<float>(40, 3.0f));
}

}  // namespace
}  // namespace kvscope::test
