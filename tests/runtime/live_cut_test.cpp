#include <ATen/ops/ones.h>

#include <set>

#include "kvscope/runtime/live_run.h"
#include "reference_model.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

constexpr double float_tolerance = 5e-5;
constexpr int prompt_tokens = 12;

/// Kept tokens of each layer and KV head.
using KeptSets = std::vector<std::vector<std::set<int>>>;

Decision decision_of(const KeptSets& kept) {
  Decision decision;
  decision.query_heads = 4;
  decision.kv_heads = 2;
  decision.head_dim = 8;
  decision.tokens = prompt_tokens;
  decision.cut_tokens = prompt_tokens;
  decision.events.push_back({0, prompt_tokens, 0});
  for (int layer = 0; layer < 2; ++layer) {
    LayerDecision part = LayerDecision::keep_all(layer, 2, prompt_tokens);
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      const std::set<int>& tokens =
          kept[static_cast<std::size_t>(layer)][static_cast<std::size_t>(kv_head)];
      for (int token = 0; token < prompt_tokens; ++token) {
        if (!tokens.contains(token)) {
          part.fate[part.cell(kv_head, token)] = Fate::evicted;
          part.removed_at[part.cell(kv_head, token)] = 0;
        }
      }
      part.granted[static_cast<std::size_t>(kv_head)] = static_cast<int>(tokens.size());
    }
    decision.layers.push_back(part);
  }
  return decision;
}

KeyWeight masked_by(const KeptSets& kept) {
  return [kept](int layer, int kv_head, int query, int key) {
    const std::set<int>& tokens =
        kept[static_cast<std::size_t>(layer)][static_cast<std::size_t>(kv_head)];
    const bool cut_away = query >= prompt_tokens && key < prompt_tokens && !tokens.contains(key);
    return key <= query && !cut_away ? 1.0 : 0.0;
  };
}

const std::vector<std::int32_t> continuation = {7, 3, 3, 21, 39, 0};

std::unique_ptr<LiveRun> prefilled(bool statistics = true) {
  auto run = LiveRun::start(fake_model(), fake_prompt(prompt_tokens), {});
  run->prefill(statistics, nullptr);
  return run;
}

/// Cuts, decodes, and compares every step with the reference that hides the same keys.
void expect_masked_attention(const KeptSets& kept) {
  const auto run = prefilled();
  run->apply(decision_of(kept));
  std::vector<std::int32_t> ids = run->tokens().id;
  for (const std::int32_t token : continuation) {
    run->decode(token, nullptr);
    ids.push_back(token);
    const ReferenceResult expected = reference_forward(FakeModelFile(), ids, masked_by(kept));
    EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance) << ids.size();
  }
}

const KeptSets ragged = {{{0, 1, 5, 11}, {2, 3, 4, 6, 7, 10}}, {{0}, {0, 1, 2, 3, 8, 9, 10, 11}}};
const KeptSets even = {{{0, 1, 5, 11}, {2, 3, 4, 6}}, {{0, 9, 10, 11}, {1, 3, 5, 7}}};

TEST(LiveCut, EvenlyCutCacheIsAttentionWithHiddenKeys) {
  expect_masked_attention(even);
}

TEST(LiveCut, RaggedCacheIsAttentionWithHiddenKeys) {
  expect_masked_attention(ragged);
}

TEST(LiveCut, SlidingWindowsCountPositionsAfterACut) {
  constexpr int window = 9;
  const auto file = std::make_shared<FakeModelFile>();
  file->change_config().shape.layer_windows = {window, 0};
  for (const KeptSets& kept : {even, ragged}) {
    const auto weight = [&](int layer, int kv_head, int query, int key) {
      const bool outside = layer == 0 && key <= query - window;
      return outside ? 0.0 : masked_by(kept)(layer, kv_head, query, key);
    };
    const auto run =
        LiveRun::start(Model::load(file, {"cpu", "float32", 2}), fake_prompt(prompt_tokens), {});
    run->prefill(true, nullptr);
    std::vector<std::int32_t> ids = run->tokens().id;
    EXPECT_LT(worst(run->logits(), reference_forward(*file, ids, weight).logits.back()),
              float_tolerance);
    run->apply(decision_of(kept));
    for (const std::int32_t token : continuation) {
      run->decode(token, nullptr);
      ids.push_back(token);
      const ReferenceResult expected = reference_forward(*file, ids, weight);
      EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance) << ids.size();
      const at::Tensor row = run->layer(0)->attention(1);
      EXPECT_LT(worst(row.sum(-1), at::ones({4, 1})), 1e-5);
    }
  }
}

TEST(LiveCut, ChunkAfterACutIsCausalInItsTail) {
  const auto run = prefilled();
  run->apply(decision_of(ragged));
  run->forward(continuation, {});
  std::vector<std::int32_t> ids = fake_prompt(prompt_tokens).id;
  ids.insert(ids.end(), continuation.begin(), continuation.end());
  const ReferenceResult expected = reference_forward(FakeModelFile(), ids, masked_by(ragged));
  EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance);
}

TEST(LiveCut, ProbeOnARaggedCacheLeavesItAsItWas) {
  const auto run = prefilled();
  run->apply(decision_of(ragged));
  const auto untouched = run->fork();
  ForwardRequest probe;
  probe.append = false;
  run->forward(continuation, probe);
  EXPECT_TRUE(at::equal(run->layer(0)->keys(Frame::post_rope),
                        untouched->layer(0)->keys(Frame::post_rope)));
  run->decode(2, nullptr);
  untouched->decode(2, nullptr);
  EXPECT_TRUE(at::equal(run->logits(), untouched->logits()));
}

TEST(LiveCut, KeepingEverythingChangesNoBit) {
  const auto full = prefilled();
  const auto run = prefilled();
  std::set<int> all;
  for (int token = 0; token < prompt_tokens; ++token) {
    all.insert(token);
  }
  run->apply(decision_of({{all, all}, {all, all}}));
  for (const std::int32_t token : continuation) {
    full->decode(token, nullptr);
    run->decode(token, nullptr);
    EXPECT_TRUE(at::equal(run->logits(), full->logits()));
  }
}

TEST(LiveCut, AMergedSlotCountsForItsTokens) {
  // Token 4 goes into token 3 of KV head 0 in both layers, with weight 0: key and value of slot 3
  // stay, but it stands for two tokens.
  Decision decision = decision_of(ragged);
  for (LayerDecision& layer : decision.layers) {
    layer = LayerDecision::keep_all(layer.layer, 2, prompt_tokens);
    layer.fate[layer.cell(0, 4)] = Fate::merged;
    layer.removed_at[layer.cell(0, 4)] = 0;
    MergeEdge edge;
    edge.kv_head = 0;
    edge.source = 4;
    edge.target = 3;
    layer.edges.push_back(edge);
  }
  const auto run = prefilled();
  run->apply(decision);
  const KeyWeight weight = [](int, int kv_head, int query, int key) {
    if (key > query) {
      return 0.0;
    }
    const bool after = query >= prompt_tokens && kv_head == 0;
    return after && key == 4 ? 0.0 : after && key == 3 ? 2.0 : 1.0;
  };
  std::vector<std::int32_t> ids = run->tokens().id;
  for (const std::int32_t token : continuation) {
    run->decode(token, nullptr);
    ids.push_back(token);
  }
  const ReferenceResult expected = reference_forward(FakeModelFile(), ids, weight);
  EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance);
  const auto evidence = run->layer(0);
  EXPECT_EQ(evidence->slots().multiplicity[evidence->slots().cell(0, 3)], 2.0f);
  EXPECT_NEAR(cell(evidence->last_query(), {0, 3}), expected.attention[0][0].back()[3], 1e-5);
}

TEST(LiveCut, EvidenceAfterACutFollowsTheSlots) {
  const auto run = prefilled();
  const at::Tensor before = run->layer(1)->attention_sum();
  run->apply(decision_of(ragged));
  const auto evidence = run->layer(1);
  EXPECT_EQ(evidence->slots().length, (std::vector<int>{1, 8}));
  const at::Tensor after = evidence->attention_sum();
  ASSERT_EQ(after.size(1), 8);
  EXPECT_EQ(cell(after, {0, 0}), cell(before, {0, 0}));  // query head 0: KV head 0 keeps token 0
  EXPECT_EQ(cell(after, {0, 1}), 0.0f);
  EXPECT_EQ(cell(after, {3, 4}), cell(before, {3, 8}));  // KV head 1, fifth slot is token 8
  EXPECT_LT(worst(evidence->attention(3).sum(-1), at::ones({4, 3})), 1e-5);
  EXPECT_EQ(cell(evidence->attention(3), {1, 2, 5}), 0.0f);

  run->decode(5, nullptr);  // statistics go on over the cut cache
  const at::Tensor later = run->layer(1)->attention_sum();
  ASSERT_EQ(later.size(1), 9);
  EXPECT_NEAR(later.sum().item<double>(), after.sum().item<double>() + 4, 1e-4);
  EXPECT_GT(cell(later, {0, 1}), 0.0f);  // the new token is slot 1 of the short head
}

TEST(LiveCut, SecondCutAppliesItsOwnEventOnly) {
  const auto run = prefilled();
  Decision decision = decision_of(even);
  run->apply(decision);
  const std::int64_t bytes = run->cache_bytes();
  decision.events.push_back({0, prompt_tokens, 0});
  for (LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      for (int token = 0; token < prompt_tokens; ++token) {
        if (layer.fate[layer.cell(kv_head, token)] == Fate::kept) {
          layer.fate[layer.cell(kv_head, token)] = Fate::evicted;
          layer.removed_at[layer.cell(kv_head, token)] = 1;
          break;  // the oldest kept token goes
        }
      }
    }
  }
  run->apply(decision);
  EXPECT_EQ(run->cache_bytes(), bytes * 3 / 4);
  EXPECT_EQ(run->layer(0)->slots().token[0], 1);
}

TEST(LiveCut, LowBitValuesCountTheirBytesUntilTheNextRows) {
  const auto run = prefilled();
  const auto whole = prefilled();
  Decision decision = decision_of(even);
  whole->apply(decision);
  decision.form.value_bits = 4;
  run->apply(decision);
  // Rows of 8 floats: 32 bytes whole, 4 packed and 4 for the scale.
  const std::int64_t slots = whole->cache_bytes() / 64;
  EXPECT_EQ(run->cache_bytes(), slots * (32 + 8));
  EXPECT_TRUE(
      at::equal(run->layer(0)->keys(Frame::post_rope), whole->layer(0)->keys(Frame::post_rope)));
  EXPECT_FALSE(at::equal(run->layer(0)->values(), whole->layer(0)->values()));
  EXPECT_TRUE(at::allclose(run->layer(0)->values(), whole->layer(0)->values(), 0, 0.5));
  run->decode(5, nullptr);
  EXPECT_EQ(run->cache_bytes(), slots * (32 + 8) + 2 * 2 * 64) << "the new rows are whole";
  EXPECT_EQ(run->fork()->cache_bytes(), run->cache_bytes());
}

TEST(LiveCut, RefusesFormsItCannotStoreAndForeignDecisions) {
  const auto run = prefilled();
  Decision moved = decision_of(even);
  moved.form.positions = CacheForm::Positions::cache_index;  // of keys that are turned already
  EXPECT_EQ(error_of([&] { run->apply(moved); }), code(ErrorCode::unsupported));
  Decision foreign = decision_of(even);
  foreign.kv_heads = 3;
  EXPECT_EQ(error_of([&] { run->apply(foreign); }), code(ErrorCode::usage));
  EXPECT_EQ(run->cache_bytes(), 2 * 2 * prompt_tokens * 2 * 8 * 4);
}

}  // namespace
}  // namespace kvscope::test
