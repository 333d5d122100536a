#include "kvscope/kernels/apply_decision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention_cases.h"
#include "kvscope/core/error.h"

namespace kvscope::testing {
namespace {

using ::testing::ElementsAre;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Two heads, six tokens, head_dim 2. Key of (head, token) is (10 head + token, 1), value (100 head
/// + token, -token).
LayerCache six_tokens() {
  LayerCache cache{at::empty({2, 6, 2}, at::kFloat), at::empty({2, 6, 2}, at::kFloat),
                   SlotTable::full(2, 6)};
  for (int head = 0; head < 2; ++head) {
    for (int token = 0; token < 6; ++token) {
      float* key = cache.keys.mutable_data_ptr<float>() + (head * 6 + token) * 2;
      float* value = cache.values.mutable_data_ptr<float>() + (head * 6 + token) * 2;
      key[0] = static_cast<float>(10 * head + token);
      key[1] = 1;
      value[0] = static_cast<float>(100 * head + token);
      value[1] = static_cast<float>(-token);
    }
  }
  return cache;
}

LayerDecision keep_all() {
  return LayerDecision::keep_all(0, 2, 6);
}

void remove(LayerDecision& decision, int head, std::vector<int> tokens, Fate fate = Fate::evicted,
            std::uint32_t event = 0) {
  for (const int token : tokens) {
    decision.fate[decision.cell(head, token)] = fate;
    decision.removed_at[decision.cell(head, token)] = event;
  }
}

void fold(LayerDecision& decision, MergeEdge edge) {
  if (edge.source != edge.target) {
    remove(decision, edge.kv_head, {edge.source}, Fate::merged,
           static_cast<std::uint32_t>(edge.event));
  }
  decision.edges.push_back(edge);
}

std::vector<int> tokens_of(const LayerCache& cache, int head) {
  const auto first =
      cache.slots.token.begin() + static_cast<std::ptrdiff_t>(cache.slots.cell(head, 0));
  return {first, first + cache.slots.length[static_cast<std::size_t>(head)]};
}

std::vector<float> row(const at::Tensor& tensor, int head, int slot) {
  const at::Tensor one = tensor[head][slot].to(at::kFloat).contiguous();
  return {one.const_data_ptr<float>(), one.const_data_ptr<float>() + one.numel()};
}

/// Fills the cells beyond each head's length with NaN.
void poison(LayerCache& cache) {
  for (int head = 0; head < cache.slots.kv_heads; ++head) {
    const int length = cache.slots.length[static_cast<std::size_t>(head)];
    for (const at::Tensor& tensor : {cache.keys, cache.values}) {
      tensor[head].narrow(0, length, cache.slots.slots - length).fill_(nan);
    }
  }
}

void expect_refused(const LayerCache& cache, const LayerDecision& decision,
                    const std::string& words, int event = -1) {
  try {
    apply_decision(cache, decision, CacheForm{}, event);
    ADD_FAILURE() << "not refused: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::usage));
    EXPECT_THAT(error.message(), ::testing::HasSubstr(words));
    EXPECT_FALSE(error.where().empty());
  }
}

TEST(ApplyDecision, KeepingEverythingGivesTheInputBackBitForBit) {
  Random random(3);
  LayerCache cache{random.tensor({2, 6, 4}), random.tensor({2, 6, 4}), SlotTable::full(2, 6)};
  const LayerCache same = apply_decision(cache, keep_all(), CacheForm{});
  EXPECT_TRUE(same_bytes(same.keys, cache.keys));
  EXPECT_TRUE(same_bytes(same.values, cache.values));
  EXPECT_EQ(same.slots.token, cache.slots.token);
  EXPECT_EQ(same.slots.multiplicity, cache.slots.multiplicity);
}

TEST(ApplyDecision, GathersKeptSlotsInTokenOrder) {
  LayerDecision decision = keep_all();
  remove(decision, 0, {0, 3});
  remove(decision, 1, {1, 2, 5});
  const LayerCache cut = apply_decision(six_tokens(), decision, CacheForm{});
  EXPECT_EQ(cut.keys.size(1), 4);
  EXPECT_THAT(tokens_of(cut, 0), ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(tokens_of(cut, 1), ElementsAre(0, 3, 4));
  EXPECT_THAT(row(cut.keys, 0, 2), ElementsAre(4, 1));
  EXPECT_THAT(row(cut.values, 1, 1), ElementsAre(103, -3));
  // Beyond a head's length: zero, no token, no multiplicity.
  EXPECT_THAT(row(cut.keys, 1, 3), ElementsAre(0, 0));
  EXPECT_THAT(row(cut.values, 1, 3), ElementsAre(0, 0));
  EXPECT_EQ(cut.slots.token[cut.slots.cell(1, 3)], -1);
  EXPECT_EQ(cut.slots.multiplicity[cut.slots.cell(1, 3)], 0.0F);
  EXPECT_EQ(cut.slots.position[cut.slots.cell(0, 0)], 1);  // gaps stay
}

TEST(ApplyDecision, PaddingOfRaggedHeadsIsNeverRead) {
  LayerDecision first = keep_all();
  remove(first, 0, {0, 3});
  remove(first, 1, {1, 2, 5});
  LayerCache ragged = apply_decision(six_tokens(), first, CacheForm{});
  poison(ragged);
  LayerDecision second = first;  // the same removals, one more, and a merge
  remove(second, 0, {5});
  fold(second, {1, 3, 0, 0, .5F, .5F, 1, -1});
  const LayerCache cut = apply_decision(ragged, second, CacheForm{});
  EXPECT_THAT(tokens_of(cut, 0), ElementsAre(1, 2, 4));
  EXPECT_THAT(tokens_of(cut, 1), ElementsAre(0, 4));
  EXPECT_THAT(row(cut.keys, 1, 0), ElementsAre(11.5, 1));
  EXPECT_THAT(row(cut.keys, 1, 2), ElementsAre(0, 0));
  EXPECT_FALSE(cut.keys.isnan().any().item<bool>());
  EXPECT_FALSE(cut.values.isnan().any().item<bool>());
}

TEST(ApplyDecision, WithoutAnOwnEdgeTheRestIsTheTargets) {
  LayerDecision decision = keep_all();
  fold(decision, {0, 2, 1, 0, .25F, .5F, 1, -1});
  fold(decision, {0, 3, 1, 0, .25F, .125F, 1, -1});
  const LayerCache cut = apply_decision(six_tokens(), decision, CacheForm{});
  EXPECT_THAT(tokens_of(cut, 0), ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(tokens_of(cut, 1), ElementsAre(0, 1, 2, 3, 4, 5));
  // Key: 1/2 own + 1/4 + 1/4; value: 3/8 own + 1/2 + 1/8.
  EXPECT_THAT(row(cut.keys, 0, 1), ElementsAre(.5F * 1 + .25F * 2 + .25F * 3, 1));
  EXPECT_THAT(row(cut.values, 0, 1),
              ElementsAre(.375F * 1 + .5F * 2 + .125F * 3, -(.375F * 1 + .5F * 2 + .125F * 3)));
  EXPECT_EQ(cut.slots.multiplicity[cut.slots.cell(0, 1)], 3.0F);
  EXPECT_EQ(cut.slots.multiplicity[cut.slots.cell(0, 0)], 1.0F);
}

TEST(ApplyDecision, AnOwnEdgeGivesTheTargetsWeights) {
  LayerDecision decision = keep_all();
  fold(decision, {0, 1, 1, 0, .5F, 2.0F, 1, -1});
  fold(decision, {0, 2, 1, 0, .25F, -1.0F, .5F, -1});
  const LayerCache cut = apply_decision(six_tokens(), decision, CacheForm{});
  EXPECT_THAT(row(cut.keys, 0, 1), ElementsAre(.5F * 1 + .25F * 2, .75F));
  EXPECT_THAT(row(cut.values, 0, 1), ElementsAre(2.0F * 1 - 2, -(2.0F * 1 - 2)));
  EXPECT_EQ(cut.slots.multiplicity[cut.slots.cell(0, 1)], 1.5F);  // the own edge counts nothing
}

TEST(ApplyDecision, SummedValuesKeepTheTargetWhole) {
  LayerDecision decision = keep_all();
  fold(decision, {0, 2, 1, 0, .5F, 1.0F, 1, -1});
  CacheForm form;
  form.values = CacheForm::Values::sum;
  const LayerCache cut = apply_decision(six_tokens(), decision, form);
  EXPECT_THAT(row(cut.values, 0, 1), ElementsAre(1 + 2, -1 - 2));
  EXPECT_THAT(row(cut.keys, 0, 1), ElementsAre(1.5, 1));  // keys are means in every form
}

TEST(ApplyDecision, AKeyRowWinsOverTheWeights) {
  LayerDecision decision = keep_all();
  fold(decision, {0, 2, 1, 0, .5F, .5F, 1, 1});
  fold(decision, {1, 2, 1, 0, .5F, .5F, 1, 0});
  decision.key_row_dim = 2;
  decision.key_rows = {70, 71, 80, 81};
  const LayerCache cut = apply_decision(six_tokens(), decision, CacheForm{});
  EXPECT_THAT(row(cut.keys, 0, 1), ElementsAre(80, 81));
  EXPECT_THAT(row(cut.keys, 1, 1), ElementsAre(70, 71));
  EXPECT_THAT(row(cut.values, 0, 1), ElementsAre(1.5, -1.5));
}

TEST(ApplyDecision, SourcesAreReadAsTheyWereBeforeTheEvent) {
  LayerDecision decision = keep_all();
  // 2 -> 1 and 1 -> 0 in one event: 0 receives the old 1, not the merged one.
  fold(decision, {0, 2, 1, 0, .5F, .5F, 1, -1});
  fold(decision, {0, 1, 0, 0, .5F, .5F, 1, -1});
  const LayerCache cut = apply_decision(six_tokens(), decision, CacheForm{});
  EXPECT_THAT(tokens_of(cut, 0), ElementsAre(0, 3, 4, 5));
  EXPECT_THAT(row(cut.values, 0, 0), ElementsAre(.5, -.5));
  EXPECT_EQ(cut.slots.multiplicity[0], 2.0F);
}

TEST(ApplyDecision, EventsOneByOneEqualAllAtOnce) {
  LayerDecision decision = keep_all();
  fold(decision, {0, 2, 1, 0, .5F, .5F, 1, -1});
  fold(decision, {0, 1, 0, 1, .5F, .5F, 2, -1});  // the merged slot moves on, with its two tokens
  remove(decision, 1, {4}, Fate::evicted, 1);
  const LayerCache first = apply_decision(six_tokens(), decision, CacheForm{}, 0);
  EXPECT_THAT(tokens_of(first, 0), ElementsAre(0, 1, 3, 4, 5));
  EXPECT_THAT(tokens_of(first, 1), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(row(first.values, 0, 1), ElementsAre(1.5, -1.5));
  const LayerCache second = apply_decision(first, decision, CacheForm{}, 1);
  const LayerCache once = apply_decision(six_tokens(), decision, CacheForm{});
  EXPECT_THAT(row(second.values, 0, 0), ElementsAre(.75, -.75));
  EXPECT_TRUE(same_bytes(second.keys, once.keys));
  EXPECT_TRUE(same_bytes(second.values, once.values));
  EXPECT_EQ(second.slots.token, once.slots.token);
  EXPECT_EQ(second.slots.multiplicity, once.slots.multiplicity);
  EXPECT_EQ(once.slots.multiplicity[0], 3.0F);
  expect_refused(six_tokens(), decision, "still holds a slot", 1);  // event 0 was left out
}

TEST(ApplyDecision, PositionsFollowTheForm) {
  LayerDecision decision = keep_all();
  remove(decision, 0, {0});
  fold(decision, {0, 4, 3, 0, .5F, .5F, 1, -1});
  const auto positions = [&](CacheForm::Positions rule) {
    CacheForm form;
    form.positions = rule;
    const LayerCache cut = apply_decision(six_tokens(), decision, form);
    return std::vector<int>(cut.slots.position.begin(), cut.slots.position.begin() + 4);
  };
  // Slots of tokens 1, 2, 3 (which stands for 3 and 4) and 5: the sum up to a slot, less the
  // first's.
  EXPECT_THAT(positions(CacheForm::Positions::original), ElementsAre(1, 2, 3, 5));
  EXPECT_THAT(positions(CacheForm::Positions::cache_index), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(positions(CacheForm::Positions::multiplicity), ElementsAre(0, 1, 3, 4));
}

TEST(ApplyDecision, HalfPrecisionCachesAreRoundedOnce) {
  LayerDecision decision = keep_all();
  for (int source = 2; source < 6; ++source) {
    fold(decision, {0, source, 1, 0, .2F, .2F, 1, -1});
  }
  LayerCache cache = six_tokens();
  cache.keys = cache.keys.to(at::kBFloat16);
  cache.values = cache.values.to(at::kBFloat16);
  const LayerCache cut = apply_decision(cache, decision, CacheForm{});
  EXPECT_EQ(cut.values.scalar_type(), at::kBFloat16);
  const double own = 1.0 - 4 * static_cast<double>(.2F);
  const double exact = own * 1 + static_cast<double>(.2F) * (2 + 3 + 4 + 5);
  const auto rounded = static_cast<float>(static_cast<c10::BFloat16>(static_cast<float>(exact)));
  EXPECT_EQ(row(cut.values, 0, 1)[0], rounded);
}

TEST(ApplyDecision, LowBitValuesAreMultiplesOfEachRowsScale) {
  LayerCache cache = six_tokens();
  const std::vector<float> values = {0.93F, -1.4F, 0, 0, -0.01F, 0.7F};  // head 0, tokens 0 to 2
  std::copy(values.begin(), values.end(), cache.values.mutable_data_ptr<float>());
  for (const int bits : {4, 8}) {
    CacheForm form;
    form.value_bits = bits;
    const LayerCache cut = apply_decision(cache, keep_all(), form);
    EXPECT_TRUE(at::equal(cut.keys, cache.keys));
    const float levels = bits == 4 ? 7 : 127;
    for (int token = 0; token < 3; ++token) {
      const float* whole = values.data() + 2 * token;
      const float scale = std::max(std::abs(whole[0]), std::abs(whole[1])) / levels;
      for (std::size_t channel = 0; channel < 2; ++channel) {
        const float expected = scale > 0 ? std::nearbyint(whole[channel] / scale) * scale : 0;
        EXPECT_NEAR(row(cut.values, 0, token)[channel], expected, 1e-6) << bits << " " << token;
      }
    }
    EXPECT_NEAR(row(cut.values, 0, 0)[0], bits == 4 ? 1.0F : 0.926F, 5e-4);  // 5 / 7, 84 / 127
    const LayerCache again = apply_decision(cut, keep_all(), form);
    EXPECT_TRUE(at::allclose(again.values, cut.values, 1e-6, 0)) << "rounded rows stay";
  }
  CacheForm odd;
  odd.value_bits = 3;
  EXPECT_THROW(apply_decision(cache, keep_all(), odd), Error);
}

TEST(ApplyDecision, ASkippedTokenKeepsItsSlot) {
  LayerDecision decision = keep_all();
  decision.fate[decision.cell(0, 2)] = Fate::skipped;
  const LayerCache cut = apply_decision(six_tokens(), decision, CacheForm{});
  EXPECT_EQ(cut.slots.length[0], 6);
}

TEST(ApplyDecision, RefusesACacheTheDecisionWasNotMadeOn) {
  LayerCache cache = six_tokens();
  cache.values = cache.values.narrow(1, 0, 5);
  expect_refused(cache, keep_all(), "differ in sizes");
  expect_refused(six_tokens(), LayerDecision::keep_all(0, 1, 6), "1 KV heads, the cache 2");
  expect_refused(six_tokens(), LayerDecision::keep_all(0, 2, 5), "holds token 5");
  LayerDecision cut = keep_all();
  remove(cut, 0, {1});
  remove(cut, 1, {1});
  expect_refused(apply_decision(six_tokens(), cut, CacheForm{}), keep_all(), "is to stay");
  LayerCache disordered = six_tokens();
  std::swap(disordered.slots.token[0], disordered.slots.token[1]);
  expect_refused(disordered, keep_all(), "does not cover in this order");
  LayerDecision torn = keep_all();
  torn.fate.pop_back();
  expect_refused(six_tokens(), torn, "do not cover its tokens");
}

TEST(ApplyDecision, RefusesEdgesThatLeadNowhere) {
  LayerDecision gone = keep_all();
  remove(gone, 0, {2}, Fate::evicted, 0);
  const LayerCache without_two = apply_decision(six_tokens(), gone, CacheForm{}, 0);
  LayerDecision from_nowhere = gone;
  from_nowhere.edges.push_back({0, 2, 1, 1, .5F, .5F, 1, -1});
  expect_refused(without_two, from_nowhere, "holds no slot", 1);
  LayerDecision head = keep_all();
  head.edges.push_back({2, 1, 0, 0, .5F, .5F, 1, -1});
  expect_refused(six_tokens(), head, "names KV head 2 of 2");
  LayerDecision outside = keep_all();
  outside.edges.push_back({0, 1, 9, 0, .5F, .5F, 1, -1});
  expect_refused(six_tokens(), outside, "names token 9");
  LayerDecision row = keep_all();
  fold(row, {0, 2, 1, 0, .5F, .5F, 1, 3});
  row.key_row_dim = 2;
  row.key_rows = {1, 2};
  expect_refused(six_tokens(), row, "names key row 3");
  LayerDecision wide = keep_all();
  wide.key_row_dim = 3;
  wide.key_rows = {1, 2, 3};
  expect_refused(six_tokens(), wide, "another head_dim");
}

}  // namespace
}  // namespace kvscope::testing
