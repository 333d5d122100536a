#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "float64_attention.h"
#include "kvscope/evidence/capture_run.h"
#include "kvscope/storage/capture_writer.h"
#include "recorded_run.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 30;
constexpr int question_tokens = 6;

/// A capture of one profile and the live run it was taken from.
struct Recorded {
  explicit Recorded(Profile profile, std::vector<int> windows = {4, 16}) {
    CaptureRequest request;
    request.profile = profile;
    request.windows = std::move(windows);
    request.stored_queries = 12;
    live = record(folder / "x.capture.h5", request, asked_prompt(prompt_tokens, question_tokens));
    reader = std::make_shared<const CaptureReader>(folder / "x.capture.h5");
  }
  CaptureRun run(CaptureRun::CutAfter cut = CaptureRun::CutAfter::prompt) const {
    return CaptureRun(reader, cut);
  }

  CaptureFolder folder;
  std::unique_ptr<LiveRun> live;
  std::shared_ptr<const CaptureReader> reader;
};

using Field = std::pair<const char*, std::function<at::Tensor(const LayerEvidence&)>>;

const std::vector<Field> fields = {
    {"keys", [](const LayerEvidence& e) { return e.keys(Frame::post_rope); }},
    {"keys_pre_rope", [](const LayerEvidence& e) { return e.keys(Frame::pre_rope); }},
    {"values", [](const LayerEvidence& e) { return e.values(); }},
    {"queries", [](const LayerEvidence& e) { return e.queries(9); }},
    {"attention", [](const LayerEvidence& e) { return e.attention(9); }},
    {"attention_sum", [](const LayerEvidence& e) { return e.attention_sum(); }},
    {"attention_sum_squares", [](const LayerEvidence& e) { return e.attention_sum_squares(); }},
    {"attention_max", [](const LayerEvidence& e) { return e.attention_max(); }},
    {"window_sum stored", [](const LayerEvidence& e) { return e.window_sum(16); }},
    {"window_sum recomputed", [](const LayerEvidence& e) { return e.window_sum(7); }},
    {"window_sum_squares", [](const LayerEvidence& e) { return e.window_sum_squares(4); }},
    {"last_query", [](const LayerEvidence& e) { return e.last_query(); }},
    {"lse", [](const LayerEvidence& e) { return e.lse(9); }},
    {"key_norm", [](const LayerEvidence& e) { return e.key_norm(); }},
    {"projected_value_norm", [](const LayerEvidence& e) { return e.projected_value_norm(2); }},
    {"projected_value_norm L1", [](const LayerEvidence& e) { return e.projected_value_norm(1); }},
    {"output_factor", [](const LayerEvidence& e) { return e.output_factor(); }}};

TEST(CaptureEvidence, EqualsThatOfTheLiveRun) {
  const Recorded recorded(Profile::full);
  CaptureRun run = recorded.run();
  EXPECT_EQ(run.tokens_seen(), prompt_tokens);
  EXPECT_EQ(run.capture_hash(), recorded.live->capture_hash());
  for (int layer = 0; layer < 2; ++layer) {
    const auto evidence = run.layer(layer);
    const auto live = recorded.live->layer(layer);
    EXPECT_EQ(evidence->slots().token, live->slots().token);
    for (const auto& [name, get] : fields) {
      const at::Tensor from_file = get(*evidence);
      const at::Tensor from_run = get(*live);
      ASSERT_EQ(from_file.sizes(), from_run.sizes()) << name;
      EXPECT_LT(worst(from_file, from_run), 2e-6 * (1 + from_run.abs().max().item<double>()))
          << name << ", layer " << layer;
    }
  }
}

TEST(CaptureEvidence, CutAfterContextSeesNothingLater) {
  const Recorded recorded(Profile::full);
  // The same file, with NaN in every cell of the question's tokens and queries, and in every plane
  // whose population reaches into the question.
  const std::string poisoned = recorded.folder / "nan.capture.h5";
  const int cut = prompt_tokens - question_tokens;
  {
    CaptureRequest request;
    request.profile = Profile::full;
    request.windows = {4, 16};
    CaptureIndex index = recorded.reader->index();
    CaptureWriter writer(poisoned, index, asked_prompt(prompt_tokens, question_tokens),
                         capture_datasets(request, index.shape, prompt_tokens, ElementType::f4),
                         {});
    for (const std::string& name : recorded.reader->datasets()) {
      const bool rows = name.starts_with("layers/") && !name.ends_with("output_factor");
      const bool per_token = name.ends_with("_norm") || name.ends_with("_norm_l1") ||
                             name.ends_with("lse") || name.ends_with("entropy");
      if (!rows && !per_token && !name.ends_with("output_factor")) {
        continue;  // left at its fill value, NaN
      }
      std::vector<std::int64_t> extent = recorded.reader->shape(name);
      if (extent.empty() || extent[0] == 0 || name.starts_with("steps/")) {
        continue;
      }
      if (rows) {
        extent[1] = cut;
      } else if (per_token) {
        extent[2] = cut;
      }
      std::vector<float> values(static_cast<std::size_t>(extent[0] * extent[1] * extent[2]));
      recorded.reader->read(name, {0, 0, 0}, extent, std::span(values));
      writer.write(name, {0, 0, 0}, extent, std::span<const float>(values));
    }
    writer.finish(0);
  }
  CaptureRun clean = recorded.run(CaptureRun::CutAfter::context);
  CaptureRun blind(std::make_shared<const CaptureReader>(poisoned), CaptureRun::CutAfter::context);
  EXPECT_EQ(blind.tokens_seen(), cut);
  for (int layer = 0; layer < 2; ++layer) {
    const auto whole = clean.layer(layer);
    const auto evidence = blind.layer(layer);
    for (const auto& [name, get] : fields) {
      const at::Tensor seen = get(*evidence);
      EXPECT_FALSE(seen.isnan().any().item<bool>()) << name;
      EXPECT_TRUE(at::equal(seen, get(*whole))) << name;
    }
    EXPECT_EQ(evidence->attention_sum().size(1), cut);
    EXPECT_NEAR(evidence->attention_sum().sum().item<double>(), 4.0 * cut, 1e-4);
  }
}

TEST(CaptureEvidence, MissingDataNamesTheFlag) {
  const Recorded window(Profile::window);
  CaptureRun run = window.run();
  const auto evidence = run.layer(0);
  const auto fix = [](const std::function<void()>& ask) {
    try {
      ask();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::missing_data) << error.what();
      return error.fix();
    }
    return std::string("nothing was missing");
  };
  EXPECT_NE(fix([&] { evidence->keys(Frame::post_rope); }).find("--profile qkv"),
            std::string::npos);
  EXPECT_NE(fix([&] { evidence->attention_sum(); }).find("--profile scores"), std::string::npos);
  EXPECT_NE(fix([&] { evidence->window_sum(9); }).find("--window 9"), std::string::npos);
  EXPECT_NE(fix([&] { evidence->queries(4); }).find("--profile"), std::string::npos);
  EXPECT_NE(fix([&] { evidence->projected_value_norm(1); }).find("--profile"), std::string::npos);
  EXPECT_NE(fix([&] { evidence->output_weights(); }).find("generate"), std::string::npos);
  EXPECT_EQ(evidence->window_sum(16).size(1), prompt_tokens);  // in the file
  const Recorded newest(Profile::qkv);
  CaptureRun qkv = newest.run();
  EXPECT_NE(fix([&] { qkv.layer(0)->queries(13); }).find("--profile full"), std::string::npos);
  EXPECT_EQ(qkv.layer(0)->queries(12).size(1), 12);
  EXPECT_EQ(error_of([&] { qkv.layer(0)->window_sum(31); }), code(ErrorCode::usage));
}

TEST(CaptureEvidence, WhatACaptureCannotDoIsRefused) {
  const Recorded recorded(Profile::window);
  CaptureRun run = recorded.run();
  EXPECT_EQ(error_of([&] { run.forward({}, {}); }), code(ErrorCode::unsupported));
  EXPECT_EQ(error_of([&] { run.apply({}); }), code(ErrorCode::unsupported));
  EXPECT_EQ(error_of([&] { run.logits(); }), code(ErrorCode::unsupported));
  EXPECT_EQ(error_of([&] { run.layer(2); }), code(ErrorCode::missing_data));
}

TEST(CaptureTile, EqualsIndependentAttentionInFloat64) {
  const Recorded recorded(Profile::full);
  const std::vector<std::array<int, 4>> tiles = {
      {0, 30, 0, 30}, {29, 1, 0, 30}, {3, 7, 2, 5}, {0, 4, 10, 5}, {12, 1, 12, 1}};
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 4; ++head) {
      const auto map = float64_map(*recorded.reader, layer, head);
      for (const auto& [first_query, queries, first_key, keys] : tiles) {
        const AttentionTile tile =
            capture_tile(*recorded.reader, layer, head, first_query, queries, first_key, keys);
        ASSERT_EQ(tile.probability.size(), static_cast<std::size_t>(queries * keys));
        for (int query = 0; query < queries; ++query) {
          for (int key = 0; key < keys; ++key) {
            EXPECT_NEAR(tile.probability[static_cast<std::size_t>(query * keys + key)],
                        map[static_cast<std::size_t>(first_query + query)]
                           [static_cast<std::size_t>(first_key + key)],
                        4e-6)  // logits of size 10 in float32
                << layer << " " << head << " " << first_query + query << " " << first_key + key;
          }
        }
      }
    }
  }
}

TEST(CaptureTile, RefusesWhatLiesOutside) {
  const Recorded recorded(Profile::qkv);
  const CaptureReader& reader = *recorded.reader;
  EXPECT_EQ(error_of([&] { capture_tile(reader, 0, 4, 20, 1, 0, 1); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { capture_tile(reader, 0, 0, 20, 11, 0, 1); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { capture_tile(reader, 0, 0, 20, 1, -1, 1); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { capture_tile(reader, 5, 0, 20, 1, 0, 1); }),
            code(ErrorCode::missing_data));
  EXPECT_EQ(error_of([&] { capture_tile(reader, 0, 0, 3, 1, 0, 1); }),
            code(ErrorCode::missing_data));
  EXPECT_TRUE(capture_tile(reader, 0, 0, 20, 0, 0, 0).probability.empty());
}

}  // namespace
}  // namespace kvscope::test
