#include "kvscope/runtime/live_run.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <map>

#include "reference_model.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

constexpr double float_tolerance = 5e-5;

std::unique_ptr<LiveRun> started(int tokens, LiveRunOptions options = {}) {
  return LiveRun::start(fake_model(), fake_prompt(tokens), std::move(options));
}

TEST(LiveRun, PrefillEqualsTheFloat64Reference) {
  for (const int tokens : {1, 2, 13, 33}) {
    const auto run = started(tokens);
    run->prefill(false, nullptr);
    const ReferenceResult expected = reference_forward(FakeModelFile(), run->tokens().id);
    EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance) << tokens;
    const at::Tensor all = run->prompt_logits();
    ASSERT_EQ(all.size(0), tokens);
    for (int token = 0; token < tokens; ++token) {
      EXPECT_LT(worst(all[token], expected.logits[static_cast<std::size_t>(token)]),
                float_tolerance);
    }
  }
}

TEST(LiveRun, UntiedHeadAndOneKvHead) {
  const auto file = std::make_shared<FakeModelFile>(false, 1);
  const auto run = LiveRun::start(Model::load(file, {"cpu", "float32", 1}), fake_prompt(9), {});
  run->prefill(false, nullptr);
  EXPECT_LT(worst(run->logits(), reference_forward(*file, run->tokens().id).logits.back()),
            float_tolerance);
}

TEST(LiveRun, ChunksOfAnySizeGiveTheSameRun) {
  const auto whole = started(29);
  whole->prefill(true, nullptr);
  for (const int chunk : {1, 4, 28, 29, 100}) {
    LiveRunOptions options;
    options.prefill_chunk = chunk;
    const auto run = started(29, options);
    run->prefill(true, nullptr);
    EXPECT_LT(worst(run->logits(), whole->logits()), float_tolerance) << chunk;
    const auto evidence = run->layer(1);
    const auto expected = whole->layer(1);
    EXPECT_LT(worst(evidence->attention_sum(), expected->attention_sum()), 1e-5) << chunk;
    EXPECT_LT(worst(evidence->attention_max(), expected->attention_max()), 1e-5) << chunk;
    EXPECT_LT(worst(evidence->window_sum(16), expected->window_sum(16)), 1e-5) << chunk;
    EXPECT_LT(worst(evidence->lse(29), expected->lse(29)), 1e-5) << chunk;
  }
}

TEST(LiveRun, DecodingEqualsPrefillOfTheSameText) {
  const auto whole = started(20);
  whole->prefill(false, nullptr);
  const auto run = started(12);
  run->prefill(false, nullptr);
  for (int token = 12; token < 20; ++token) {
    run->decode(whole->tokens().id[static_cast<std::size_t>(token)], nullptr);
  }
  EXPECT_LT(worst(run->logits(), whole->logits()), float_tolerance);
  EXPECT_EQ(run->step(), 8);
  EXPECT_EQ(run->tokens_seen(), 20);
  EXPECT_EQ(run->tokens().id, whole->tokens().id);
  EXPECT_EQ(run->tokens().position.back(), 19);
  EXPECT_EQ(run->tokens().segment.back(), Segment::generated);
}

TEST(LiveRun, HooksSeeEveryPointOfEveryPass) {
  std::map<std::pair<HookPoint, int>, std::vector<at::Tensor>> seen;
  std::vector<int> first_tokens;
  LiveRunOptions options;
  options.prefill_chunk = 5;
  options.hook = [&](HookPoint point, int layer, int first_token, const at::Tensor& tensor) {
    seen[{point, layer}].push_back(tensor.to(at::kFloat).clone());
    if (point == HookPoint::final_norm) {
      first_tokens.push_back(first_token);
    }
  };
  const auto run = started(9, options);
  run->prefill(true, nullptr);
  run->decode(3, nullptr);
  EXPECT_EQ(first_tokens, (std::vector<int>{0, 5, 9}));
  std::vector<std::int32_t> ids = fake_prompt(9).id;
  ids.push_back(3);
  const ReferenceResult expected = reference_forward(FakeModelFile(), ids);
  EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance);
  for (int layer = 0; layer < 2; ++layer) {
    for (int index = 0; !of_model(static_cast<HookPoint>(index)); ++index) {
      EXPECT_EQ((seen[{static_cast<HookPoint>(index), layer}].size()), 3u) << index;
    }
    const auto l = static_cast<std::size_t>(layer);
    const at::Tensor raw = seen[{HookPoint::keys_raw, layer}][1];  // tokens 5 to 8
    const at::Tensor cache = seen[{HookPoint::keys, layer}][2];
    EXPECT_LT(worst(raw.select(1, 2).reshape({-1}), expected.keys_pre_rope[l][7]), 1e-5);
    EXPECT_LT(worst(cache.select(1, 9).reshape({-1}), expected.keys[l][9]), 1e-5);
    // The residual stream: in + attention = middle, middle + MLP = out, out = in of the next layer.
    for (std::size_t pass = 0; pass < 3; ++pass) {
      const auto at_point = [&](HookPoint point) { return seen[{point, layer}][pass]; };
      EXPECT_LT(worst(at_point(HookPoint::residual_in).add(at_point(HookPoint::block_attention)),
                      at_point(HookPoint::residual_mid)),
                1e-5);
      EXPECT_LT(worst(at_point(HookPoint::residual_mid).add(at_point(HookPoint::mlp_output)),
                      at_point(HookPoint::residual_out)),
                1e-5);
    }
  }
  EXPECT_TRUE(
      at::equal(seen[{HookPoint::residual_out, 0}][1], seen[{HookPoint::residual_in, 1}][1]));
  EXPECT_EQ(parse_hook(hook_name(HookPoint::mlp_input)), HookPoint::mlp_input);
  EXPECT_EQ(error_of([] { parse_hook("residual_ot"); }), code(ErrorCode::usage));
}

TEST(LiveRun, MakesTheTokenizerOnce) {
  const auto file = std::make_shared<FakeModelFile>();
  const auto run = LiveRun::start(Model::load(file, {"cpu", "float32", 1}), fake_prompt(4), {});
  run->prefill(false, nullptr);
  for (const std::int32_t token : {1, 2, 3}) {
    run->decode(token, nullptr);
    run->fork()->decode(token, nullptr);
  }
  EXPECT_EQ(file->tokenizers_made, 1);
}

TEST(LiveRun, CacheBytesCountsLiveSlots) {
  const auto run = started(10);
  EXPECT_EQ(run->cache_bytes(), 0);
  run->prefill(false, nullptr);
  // 2 layers, 2 KV heads, 10 slots, keys and values of 8 channels of 4 bytes
  EXPECT_EQ(run->cache_bytes(), 2 * 2 * 10 * 2 * 8 * 4);
  run->decode(3, nullptr);
  EXPECT_EQ(run->cache_bytes(), 2 * 2 * 11 * 2 * 8 * 4);
}

TEST(LiveRun, ProbeLeavesTheCacheAsItWas) {
  const auto run = started(10);
  run->prefill(true, nullptr);
  const auto untouched = run->fork();
  const std::vector<std::int32_t> probe = {5, 6, 7};
  ForwardRequest request;
  request.append = false;
  request.statistics = true;
  run->forward(probe, request);
  EXPECT_EQ(run->tokens_seen(), 10);
  EXPECT_EQ(run->cache_bytes(), untouched->cache_bytes());
  EXPECT_TRUE(at::equal(run->layer(0)->attention_sum(), untouched->layer(0)->attention_sum()));
  EXPECT_TRUE(at::equal(run->layer(0)->queries(10), untouched->layer(0)->queries(10)));
  run->decode(8, nullptr);
  untouched->decode(8, nullptr);
  EXPECT_TRUE(at::equal(run->logits(), untouched->logits()));
}

TEST(LiveRun, ForwardDrivesThePromptInPieces) {
  const auto whole = started(10);
  whole->prefill(true, nullptr);
  const auto run = started(10);
  const std::vector<std::int32_t>& ids = whole->tokens().id;
  ForwardRequest request;
  request.statistics = true;
  run->forward(std::span(ids).subspan(0, 4), request);
  EXPECT_EQ(run->tokens_seen(), 4);
  EXPECT_EQ(run->step(), 0);
  run->forward(std::span(ids).subspan(4), request);
  EXPECT_LT(worst(run->logits(), whole->logits()), float_tolerance);
  EXPECT_LT(worst(run->layer(0)->attention_sum(), whole->layer(0)->attention_sum()), 1e-5);
  const std::vector<std::int32_t> wrong = {ids[0] + 1};
  EXPECT_EQ(error_of([&] { started(10)->forward(wrong, {}); }), code(ErrorCode::usage));
}

TEST(LiveRun, ForksGoTheirOwnWays) {
  const auto run = started(10);
  run->prefill(false, nullptr);
  const auto other = run->fork();
  const at::Tensor before = run->logits().clone();
  other->decode(1, nullptr);
  other->decode(2, nullptr);
  EXPECT_EQ(run->tokens_seen(), 10);
  EXPECT_TRUE(at::equal(run->logits(), before));
  run->decode(1, nullptr);
  run->decode(2, nullptr);
  EXPECT_TRUE(at::equal(run->logits(), other->logits()));
}

TEST(LiveRun, ThreadCountChangesNothingThatMatters) {
  const auto one = LiveRun::start(fake_model("float32", 1), fake_prompt(31), {});
  one->prefill(true, nullptr);
  const auto two = LiveRun::start(fake_model("float32", 2), fake_prompt(31), {});
  two->prefill(true, nullptr);
  EXPECT_LT(worst(one->logits(), two->logits()), 1e-5);
  EXPECT_LT(worst(one->layer(1)->attention_sum(), two->layer(1)->attention_sum()), 1e-5);
}

TEST(LiveRun, Bfloat16StaysNearFloat32) {
  const auto exact = started(20);
  exact->prefill(false, nullptr);
  const auto run = LiveRun::start(fake_model("bfloat16"), fake_prompt(20), {});
  run->prefill(true, nullptr);
  EXPECT_EQ(run->logits().scalar_type(), at::kFloat);
  EXPECT_LT(worst(run->logits(), exact->logits()), 0.3);
  run->decode(4, nullptr);
  EXPECT_EQ(run->cache_bytes(), 2 * 2 * 21 * 2 * 8 * 2);
  EXPECT_EQ(run->layer(0)->keys(Frame::post_rope).scalar_type(), at::kFloat);
}

TEST(LiveRun, StopsAtTheNextLayerAndTakesBackWhatItBegan) {
  std::atomic<bool> stop{false};
  int layers = 0;
  LiveRunOptions options;
  options.stop = &stop;
  options.prefill_chunk = 4;
  options.progress = [&](int done, int total, int layer) {
    EXPECT_EQ(total, 10);
    EXPECT_LE(done, total);
    EXPECT_LT(layer, 2);
    stop = ++layers == 3;  // the first layer of the second chunk
  };
  const auto run = started(10, options);
  EXPECT_EQ(error_of([&] { run->prefill(true, nullptr); }), code(ErrorCode::interrupted));
  EXPECT_EQ(layers, 3);
  EXPECT_EQ(run->tokens_seen(), 4);
  EXPECT_EQ(run->cache_bytes(), 2 * 2 * 4 * 2 * 8 * 4);
}

TEST(LiveRun, RefusesWhatCannotRun) {
  EXPECT_EQ(error_of([] { started(0); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([] { started(65); }), code(ErrorCode::usage));
  TokenTable foreign = fake_prompt(3);
  foreign.id[1] = 40;
  EXPECT_EQ(error_of([&] { LiveRun::start(fake_model(), foreign, {}); }), code(ErrorCode::usage));

  const auto run = started(64);
  EXPECT_EQ(error_of([&] { run->logits(); }), code(ErrorCode::missing_data));
  EXPECT_EQ(error_of([&] { run->decode(1, nullptr); }), code(ErrorCode::usage));
  run->prefill(false, nullptr);
  EXPECT_EQ(error_of([&] { run->prefill(false, nullptr); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { run->decode(1, nullptr); }), code(ErrorCode::usage));
  const auto roomy = started(3);
  roomy->prefill(false, nullptr);
  EXPECT_EQ(error_of([&] { roomy->decode(40, nullptr); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { roomy->forward({}, {}); }), code(ErrorCode::usage));
}

TEST(LiveRun, HashIsOfTheSequence) {
  const auto run = started(5);
  EXPECT_EQ(run->capture_hash(), sequence_hash("00000000deadbeef", fake_prompt(5)));
  EXPECT_TRUE(run->live());
  EXPECT_EQ(run->model_name(), "fake");
}

}  // namespace
}  // namespace kvscope::test
