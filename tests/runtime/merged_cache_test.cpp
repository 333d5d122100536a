#include <algorithm>

#include "kvscope/runtime/live_run.h"
#include "reference_cache.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

constexpr double float_tolerance = 5e-5;
const CacheForm merged_form = {Frame::pre_rope, CacheForm::Positions::multiplicity,
                               CacheForm::Values::sum};

std::vector<std::int32_t> prompt_ids(int first, int count) {
  const TokenTable prompt = fake_prompt(32);
  return {prompt.id.begin() + first, prompt.id.begin() + first + count};
}

/// Reads the first `tokens` of a prompt of 32, in chunks of 8.
std::unique_ptr<LiveRun> read(const CacheForm& form, int tokens) {
  auto run = LiveRun::start(fake_model(), fake_prompt(32), {});
  run->store_as(form);
  for (int first = 0; first < tokens; first += 8) {
    run->forward(prompt_ids(first, 8), {});
  }
  return run;
}

/// Of 16 tokens: 3 + 4 and 9 + 10 + 11 merge, 5 is dropped. Layer 1 merges 3 + 4 only.
Decision merged_decision() {
  Decision decision;
  decision.query_heads = 4;
  decision.kv_heads = 2;
  decision.head_dim = 8;
  decision.tokens = decision.cut_tokens = 16;
  decision.form = merged_form;
  decision.events.push_back({0, 16, 0});
  for (int layer = 0; layer < 2; ++layer) {
    LayerDecision part = LayerDecision::keep_all(layer, 2, 16);
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      const auto lose = [&](int token, Fate fate) {
        part.fate[part.cell(kv_head, token)] = fate;
        part.removed_at[part.cell(kv_head, token)] = 0;
      };
      part.edges.push_back({kv_head, 3, 3, 0, 0.25f, 1.0f, 1.0f, -1});
      part.edges.push_back({kv_head, 4, 3, 0, 0.75f, 1.0f, 1.0f, -1});
      lose(4, Fate::merged);
      if (layer == 0) {
        part.edges.push_back({kv_head, 9, 9, 0, 0.5f, 1.0f, 1.0f, -1});
        part.edges.push_back({kv_head, 10, 9, 0, 0.3f, 1.0f, 1.0f, -1});
        part.edges.push_back({kv_head, 11, 9, 0, 0.2f, 1.0f, 1.0f, -1});
        lose(5, Fate::dropped);
        lose(10, Fate::merged);
        lose(11, Fate::merged);
      }
    }
    decision.layers.push_back(part);
  }
  return decision;
}

/// The same by hand, on a cache of the first 16 tokens in float64.
ReferenceCache merged_reference(const FakeModelFile& file) {
  ReferenceCache cache = reference_chunk(file, {}, prompt_ids(0, 16)).cache;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    ReferenceCache::Layer& l = cache.layers[layer];
    const auto merge = [&](std::size_t target, std::vector<double> weights) {
      for (std::size_t c = 0; c < l.keys[target].size(); ++c) {
        double key = 0;
        double value = 0;
        for (std::size_t member = 0; member < weights.size(); ++member) {
          key += weights[member] * l.keys[target + member][c];
          value += l.values[target + member][c];
        }
        l.keys[target][c] = key;
        l.values[target][c] = value;
      }
      l.multiplicity[target] = static_cast<double>(weights.size());
    };
    std::vector<std::size_t> lost = {4};
    merge(3, {0.25, 0.75});
    if (layer == 0) {
      merge(9, {0.5, 0.3, 0.2});
      lost = {11, 10, 5, 4};
    }
    for (const std::size_t slot : lost) {
      const auto at = static_cast<std::ptrdiff_t>(slot);
      l.keys.erase(l.keys.begin() + at);
      l.values.erase(l.values.begin() + at);
      l.multiplicity.erase(l.multiplicity.begin() + at);
    }
  }
  return cache;
}

std::unique_ptr<LiveRun> merged_run() {
  auto run = read(merged_form, 16);
  run->apply(merged_decision());
  return run;
}

TEST(MergedCache, WithoutACutEveryBitIsThatOfAnOrdinaryCache) {
  const auto ordinary = read({}, 32);
  const auto merged = read(merged_form, 32);
  EXPECT_TRUE(at::equal(ordinary->logits(), merged->logits()));
  EXPECT_EQ(ordinary->cache_bytes(), merged->cache_bytes());
  ordinary->decode(5, nullptr);
  merged->decode(5, nullptr);
  EXPECT_TRUE(at::equal(ordinary->logits(), merged->logits()));
  EXPECT_TRUE(at::equal(ordinary->layer(1)->keys(Frame::post_rope),
                        merged->layer(1)->keys(Frame::post_rope)));
}

TEST(MergedCache, SlotsStandAtTheLastTokenTheyCount) {
  const auto run = merged_run();
  const auto evidence = run->layer(0);
  const SlotTable& slots = evidence->slots();
  // tokens 0 1 2 3 6 7 8 9 12 13 14 15 with multiplicities 1 1 1 2 1 1 1 3 1 1 1 1
  const std::vector<std::int32_t> expected = {0, 1, 2, 4, 5, 6, 7, 10, 11, 12, 13, 14};
  ASSERT_EQ(slots.slots, 12);
  for (int slot = 0; slot < 12; ++slot) {
    EXPECT_EQ(slots.position[slots.cell(1, slot)], expected[static_cast<std::size_t>(slot)]);
  }
}

TEST(MergedCache, ChunksAfterACutAreAttentionWithMultiplicities) {
  const FakeModelFile file;
  const auto run = merged_run();
  ReferenceCache cache = merged_reference(file);
  for (int first = 16; first < 32; first += 8) {
    const ReferenceChunk expected = reference_chunk(file, cache, prompt_ids(first, 8));
    run->forward(prompt_ids(first, 8), {});
    EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance) << first;
    cache = expected.cache;
  }
  const ReferenceChunk expected = reference_chunk(file, cache, std::vector<std::int32_t>{11});
  run->decode(11, nullptr);
  EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance);
}

TEST(MergedCache, AProbeShowsTheChunkAndLeavesNothing) {
  const FakeModelFile file;
  const auto run = merged_run();
  const auto untouched = merged_run();
  const ReferenceChunk expected = reference_chunk(file, merged_reference(file), prompt_ids(16, 8));
  int seen = 0;
  ForwardRequest probe;
  probe.append = false;
  probe.observe = [&](const LayerEvidence& evidence) {
    const int layer = evidence.moment().layer;
    EXPECT_EQ(evidence.moment().tokens_seen, 24);
    const auto& mass = expected.mass[static_cast<std::size_t>(layer)];
    const at::Tensor rows = evidence.attention(8);
    const at::Tensor sums = evidence.window_sum(8);
    for (int head = 0; head < 4; ++head) {
      std::vector<double> total(mass[0][0].size(), 0.0);
      for (int row = 0; row < 8; ++row) {
        const auto& line = mass[static_cast<std::size_t>(head)][static_cast<std::size_t>(row)];
        EXPECT_LT(worst(rows.select(0, head).select(0, row), line), 1e-5);
        std::transform(line.begin(), line.end(), total.begin(), total.begin(), std::plus<>());
      }
      EXPECT_LT(worst(sums.select(0, head), total), 1e-5);
    }
    EXPECT_THROW(evidence.key_gradient(), Error);
    ++seen;
  };
  run->forward(prompt_ids(16, 8), probe);
  EXPECT_EQ(seen, 2);
  EXPECT_EQ(run->tokens_seen(), 16);
  EXPECT_EQ(run->cache_bytes(), untouched->cache_bytes());
  run->forward(prompt_ids(16, 8), {});
  untouched->forward(prompt_ids(16, 8), {});
  EXPECT_TRUE(at::equal(run->logits(), untouched->logits()));
}

TEST(MergedCache, SinksKeepTheirBitsAndSumsTheirMass) {
  const auto before = read(merged_form, 16);
  const at::Tensor keys = before->layer(0)->keys(Frame::pre_rope);
  const at::Tensor values = before->layer(0)->values();
  const auto run = merged_run();
  const auto evidence = run->layer(0);
  EXPECT_TRUE(at::equal(evidence->keys(Frame::pre_rope).narrow(1, 0, 3), keys.narrow(1, 0, 3)));
  EXPECT_TRUE(at::equal(evidence->values().narrow(1, 0, 3), values.narrow(1, 0, 3)));
  EXPECT_LT(worst(evidence->values().sum(1), values.sum(1).sub(values.select(1, 5))), 1e-5);
}

TEST(MergedCache, ACutCacheKeepsItsForm) {
  const auto run = merged_run();
  EXPECT_EQ(error_of([&] { run->store_as({}); }), code(ErrorCode::unsupported));
  const auto fresh = read({}, 8);
  CacheForm moved;
  moved.positions = CacheForm::Positions::cache_index;
  EXPECT_EQ(error_of([&] { fresh->store_as(moved); }), code(ErrorCode::unsupported));
}

TEST(MergedCache, AFullCacheTakesTheFormOfItsFirstDecision) {
  const FakeModelFile file;
  auto run = read({}, 16);
  run->apply(merged_decision());
  run->forward(prompt_ids(16, 8), {});
  const ReferenceChunk expected = reference_chunk(file, merged_reference(file), prompt_ids(16, 8));
  EXPECT_LT(worst(run->logits(), expected.logits.back()), float_tolerance);
}

// Gradients: against central differences of the float64 reference.

struct Gradients {
  std::vector<at::Tensor> keys{2};
  std::vector<at::Tensor> output{2};
};

Gradients gradients_of(LiveRun& run) {
  Gradients gradients;
  std::vector<int> order;
  ForwardRequest probe;
  probe.append = false;
  probe.key_gradient = KeyGradient::float32;
  probe.observe = [&](const LayerEvidence& evidence) {
    const auto layer = static_cast<std::size_t>(evidence.moment().layer);
    gradients.keys[layer] = evidence.key_gradient().clone();
    gradients.output[layer] = evidence.output_gradient().clone();
    order.push_back(evidence.moment().layer);
  };
  run.forward(prompt_ids(16, 8), probe);
  EXPECT_EQ(order, (std::vector<int>{1, 0}));
  return gradients;
}

/// d loss / d `cell` of `cache` by central differences.
double slope(const FakeModelFile& file, const ReferenceCache& cache, double& cell) {
  constexpr double step = 1e-4;
  const double value = cell;
  cell = value + step;
  const double up = reference_chunk(file, cache, prompt_ids(16, 8)).loss;
  cell = value - step;
  const double down = reference_chunk(file, cache, prompt_ids(16, 8)).loss;
  cell = value;
  return (up - down) / (2 * step);
}

TEST(KeyGradient, IsTheSlopeOfTheChunksLoss) {
  const FakeModelFile file;
  const auto run = merged_run();
  const Gradients gradients = gradients_of(*run);
  ReferenceCache cache = merged_reference(file);
  double largest = 0;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    for (const int slot : {0, 3, 6}) {
      for (const int channel : {0, 5, 9, 14}) {  // channels of both KV heads, joined
        std::vector<double>& key = cache.layers[layer].keys[static_cast<std::size_t>(slot)];
        const double expected = slope(file, cache, key[static_cast<std::size_t>(channel)]);
        const auto found =
            static_cast<double>(cell(gradients.keys[layer], {channel / 8, slot, channel % 8}));
        EXPECT_NEAR(found, expected, 2e-6 + 2e-4 * std::abs(expected))
            << layer << " " << slot << " " << channel;
        largest = std::max(largest, std::abs(expected));
      }
    }
  }
  EXPECT_GT(largest, 1e-3);
}

TEST(KeyGradient, OfTheOutputWeighsValues) {
  // d loss / d summed value of a slot = sum over queries and the group's heads of p times the
  // output's gradient, p the probability of one token of the slot.
  const FakeModelFile file;
  const auto run = merged_run();
  const Gradients gradients = gradients_of(*run);
  ReferenceCache cache = merged_reference(file);
  const ReferenceChunk chunk = reference_chunk(file, cache, prompt_ids(16, 8));
  for (const std::size_t layer : {std::size_t{0}, std::size_t{1}}) {
    constexpr int slot = 3;
    constexpr int kv_head = 1;
    for (const int channel : {0, 6}) {
      double found = 0;
      for (int head = 2; head < 4; ++head) {
        for (int row = 0; row < 8; ++row) {
          const double mass =
              chunk
                  .mass[layer][static_cast<std::size_t>(head)][static_cast<std::size_t>(row)][slot];
          found += mass / cache.layers[layer].multiplicity[slot] *
                   static_cast<double>(cell(gradients.output[layer], {head, row, channel}));
        }
      }
      const double expected =
          slope(file, cache, cache.layers[layer].values[slot][kv_head * 8 + channel]);
      EXPECT_NEAR(found, expected, 2e-6 + 2e-4 * std::abs(found));
    }
  }
}

TEST(KeyGradient, NeedsSomeoneToSeeItAndTwoTokens) {
  const auto run = merged_run();
  ForwardRequest request;
  request.key_gradient = KeyGradient::float32;
  EXPECT_EQ(error_of([&] { run->forward(prompt_ids(16, 8), request); }), code(ErrorCode::usage));
  request.observe = [](const LayerEvidence&) {};
  EXPECT_EQ(error_of([&] { run->forward(prompt_ids(16, 1), request); }), code(ErrorCode::usage));
  request.observe = [](const LayerEvidence&) { throw Error(ErrorCode::failed, "no", "", "fix"); };
  EXPECT_EQ(error_of([&] { run->forward(prompt_ids(16, 8), request); }), code(ErrorCode::failed));
  const auto untouched = merged_run();
  run->forward(prompt_ids(16, 8), {});
  untouched->forward(prompt_ids(16, 8), {});
  EXPECT_TRUE(at::equal(run->logits(), untouched->logits()));
}

}  // namespace
}  // namespace kvscope::test
