/// Methods that cut a cache again and again, in live runs of a small model.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "fake_model.h"
#include "kvscope/core/error.h"
#include "kvscope/methods/method.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::test {
namespace {

std::unique_ptr<LiveRun> start(int prompt_tokens) {
  return LiveRun::start(fake_model(), fake_prompt(prompt_tokens), {});
}

std::int32_t next_token(LiveRun& run) {
  return static_cast<std::int32_t>(run.logits().argmax().item<std::int64_t>());
}

/// Tokens that hold a slot in a KV head of the run.
std::set<int> live_tokens(LiveRun& run, int layer, int kv_head) {
  const SlotTable slots = run.layer(layer)->slots();
  const auto first = slots.token.begin() + static_cast<std::ptrdiff_t>(slots.cell(kv_head, 0));
  return {first, first + slots.length[static_cast<std::size_t>(kv_head)]};
}

/// The decision says of every token what the cache says.
void expect_decision_is_the_cache(LiveRun& run, const Decision& decision) {
  EXPECT_EQ(violations(decision), std::vector<std::string>{});
  EXPECT_EQ(decision.tokens, run.tokens_seen());
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      std::set<int> alive_tokens;
      for (int token = 0; token < layer.tokens; ++token) {
        if (layer.removed_at[layer.cell(kv_head, token)] == alive) {
          alive_tokens.insert(token);
        }
      }
      EXPECT_EQ(alive_tokens, live_tokens(run, layer.layer, kv_head));
    }
  }
}

TEST(DecodeCadence, SlackLetsTheCacheGrowAndCutsItBackToTheBudget) {
  const auto run = start(20);
  const Method method = std::move(parse_methods("knorm | decode:every=4").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("24"));
  compressor->prefill();
  EXPECT_TRUE(compressor->decision().events.empty());
  for (int step = 1; step <= 20; ++step) {
    run->decode(next_token(*run), nullptr);
    const int before = run->layer(0)->slots().slots;
    EXPECT_EQ(compressor->after_step(), before == 28) << "step " << step;
    EXPECT_EQ(run->layer(0)->slots().slots, before == 28 ? 24 : before);
    expect_decision_is_the_cache(*run, compressor->decision());
  }
  const Decision decision = compressor->decision();
  ASSERT_EQ(decision.events.size(), 4u);  // at 28, 32, 36 and 40 tokens
  EXPECT_EQ(decision.events[0].tokens_seen, 28);
  EXPECT_EQ(decision.events[3].tokens_seen, 40);
  EXPECT_EQ(decision.events[3].step, 20);
  EXPECT_FALSE(decision.replayed);
  EXPECT_EQ(decision.granted_slots(), 24 * 2 * 2);
}

TEST(DecodeCadence, StrictWaitsForAMultiple) {
  const auto run = start(20);
  const Method method = std::move(parse_methods("knorm | decode:every=7,trigger=strict").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("10"));
  compressor->prefill();
  std::vector<int> cuts;
  for (int step = 1; step <= 20; ++step) {
    run->decode(next_token(*run), nullptr);
    if (compressor->after_step()) {
      cuts.push_back(run->tokens_seen());
      EXPECT_EQ(run->layer(1)->slots().slots, 10);
    }
  }
  EXPECT_EQ(cuts, (std::vector<int>{21, 28, 35}));
}

TEST(DecodeCadence, UncountedPromptDelaysTheTrigger) {
  const auto run = start(20);
  const Method method =
      std::move(parse_methods("knorm | decode:every=2,count_prompt=false").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("8"));
  compressor->prefill();
  for (int step = 1; step <= 10; ++step) {
    run->decode(next_token(*run), nullptr);
    EXPECT_EQ(compressor->after_step(), step == 10) << step;
  }
}

TEST(DecodeCadence, ABudgetOfEverythingNeverCuts) {
  const auto full = start(20);
  const auto run = start(20);
  const Method method =
      std::move(parse_methods("h2o:recent=0.5 | decode:every=1,first_cut=prefill_end").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("64"));
  compressor->prefill();
  full->prefill(true, nullptr);
  for (int step = 1; step <= 8; ++step) {
    const std::int32_t token = next_token(*full);
    full->decode(token, nullptr);
    run->decode(token, nullptr);
    EXPECT_FALSE(compressor->after_step());
    EXPECT_TRUE(run->logits().equal(full->logits()));
  }
  EXPECT_EQ(violations(compressor->decision()), std::vector<std::string>{});
}

/// TOVA as its authors run it: after every token the slot that the newest query sees least goes,
/// over the mean of all query heads, written out here from the evidence.
TEST(DecodeCadence, TovaEveryStepIsTheAuthorsLoop) {
  const auto run = start(16);
  const Method method =
      std::move(parse_methods("tova | decode:every=1,first_cut=prefill_end").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("12"));
  compressor->prefill();
  for (int step = 1; step <= 12; ++step) {
    run->decode(next_token(*run), nullptr);
    std::vector<std::set<int>> expected;
    for (int layer = 0; layer < 2; ++layer) {
      const auto evidence = run->layer(layer);
      const at::Tensor seen = evidence->attention(1).select(1, 0).mean(0);
      const SlotTable slots = evidence->slots();
      ASSERT_EQ(slots.slots, 13);
      const auto least = seen.narrow(0, 0, 12).argmin().item<std::int64_t>();  // the newest stays
      std::set<int> left = live_tokens(*run, layer, 0);
      left.erase(slots.token[static_cast<std::size_t>(least)]);
      expected.push_back(left);
    }
    EXPECT_TRUE(compressor->after_step());
    EXPECT_EQ(live_tokens(*run, 0, 0), expected[0]);
    EXPECT_EQ(live_tokens(*run, 1, 1), expected[1]);
  }
}

/// Evicted sums are forgotten and kept ones go on: H2O's online rule, from a sum kept by hand.
TEST(DecodeCadence, H2oEveryStepKeepsItsSums) {
  const auto run = start(12);
  const Method method = std::move(
      parse_methods("h2o:recent=0.25,reduce=sum | decode:every=1,first_cut=prefill_end").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("8"));
  compressor->prefill();
  std::map<int, double> sum;
  const at::Tensor start_sum = run->layer(0)->attention_sum().narrow(0, 0, 2).sum(0);
  const SlotTable first = run->layer(0)->slots();
  for (int slot = 0; slot < first.slots; ++slot) {
    sum[first.token[static_cast<std::size_t>(slot)]] = start_sum[slot].item<double>();
  }
  for (int step = 1; step <= 10; ++step) {
    run->decode(next_token(*run), nullptr);
    const auto evidence = run->layer(0);
    const at::Tensor row = evidence->attention(1).select(1, 0).narrow(0, 0, 2).sum(0);
    const SlotTable slots = evidence->slots();
    int worst = -1;
    for (int slot = 0; slot < 9; ++slot) {
      const int token = slots.token[static_cast<std::size_t>(slot)];
      sum[token] += row[slot].item<double>();
      if (slot < 7 && (worst < 0 || sum[token] <= sum[worst])) {  // the two newest are recent
        worst = token;
      }
    }
    sum.erase(worst);
    EXPECT_TRUE(compressor->after_step());
    std::set<int> left;
    for (const auto& [token, value] : sum) {
      left.insert(token);
    }
    EXPECT_EQ(live_tokens(*run, 0, 0), left) << "step " << step;
  }
}

TEST(DecodeCadence, AForkGoesItsOwnWay) {
  const auto run = start(16);
  const Method method = std::move(parse_methods("knorm | decode:every=2").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("12"));
  compressor->prefill();
  const auto feed = [](LiveRun& which, Compressor& at, int token) {
    which.decode(token, nullptr);
    at.after_step();
  };
  for (int token = 1; token < 5; ++token) {
    feed(*run, *compressor, token);
  }
  const auto fork = run->fork();
  const auto other = compressor->onto(*fork);
  for (int token = 0; token < 6; ++token) {
    feed(*run, *compressor, 3 + token);
    feed(*fork, *other, 30 - token);
  }
  expect_decision_is_the_cache(*run, compressor->decision());
  expect_decision_is_the_cache(*fork, other->decision());
  EXPECT_EQ(compressor->decision().events.size(), other->decision().events.size());
}

TEST(DecodeCadence, MergedSlotsAreCutAgain) {
  const auto run = start(20);
  const Method method = std::move(parse_methods("knorm | nearest_key | decode:every=3").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("9"));
  compressor->prefill();
  for (int step = 1; step <= 12; ++step) {
    run->decode(next_token(*run), nullptr);
    compressor->after_step();
    expect_decision_is_the_cache(*run, compressor->decision());
  }
  const Decision decision = compressor->decision();
  EXPECT_EQ(decision.events.size(), 4u);
  const auto& edges = decision.layers[0].edges;
  EXPECT_TRUE(
      std::any_of(edges.begin(), edges.end(), [](const MergeEdge& e) { return e.event == 0; }));
  EXPECT_TRUE(
      std::any_of(edges.begin(), edges.end(), [](const MergeEdge& e) { return e.event == 3; }));
}

/// kvpress's loop: a step counter that starts anew whether or not there was something to cut.
TEST(DecodeCadence, IntervalCountsSteps) {
  for (const auto& [prompt, expected] :
       {std::pair{20, std::vector<int>{25, 30, 35}}, std::pair{12, std::vector<int>{17, 22, 27}},
        std::pair{5, std::vector<int>{15, 20}}}) {
    const auto run = start(prompt);
    const Method method =
        std::move(parse_methods("knorm | decode:every=5,trigger=interval").front());
    const auto compressor = start_compressor(*run, method, Budget::parse("10"));
    compressor->prefill();
    std::vector<int> cuts;
    for (int step = 1; step <= 15; ++step) {
      run->decode(next_token(*run), nullptr);
      if (compressor->after_step()) {
        cuts.push_back(run->tokens_seen());
        EXPECT_EQ(run->layer(1)->slots().slots, 10);
      }
    }
    EXPECT_EQ(cuts, expected) << "prompt of " << prompt;
  }
}

/// Sums of decode rows alone, added up here from the rows themselves, through two cuts.
TEST(DecodeCadence, DecodeSumsLeaveThePromptOut) {
  const auto run = start(20);
  const Method method = std::move(parse_methods("knorm | decode:every=4").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("18"));
  compressor->prefill();
  EXPECT_EQ(run->layer(0)->decode_attention_sum().abs().max().item<float>(), 0.0F);
  std::map<int, double> sums;  // of query head 2, which reads KV head 1
  for (int step = 1; step <= 11; ++step) {
    run->decode(next_token(*run), nullptr);
    const auto evidence = run->layer(1);
    const at::Tensor row = evidence->attention(1).select(0, 2).select(0, 0);
    const at::Tensor sum = evidence->decode_attention_sum().select(0, 2);
    const SlotTable slots = evidence->slots();
    for (int slot = 0; slot < slots.slots; ++slot) {
      const int token = slots.token[slots.cell(1, slot)];
      sums[token] += row[slot].item<double>();
      EXPECT_NEAR(sum[slot].item<double>(), sums[token], 1e-5) << "token " << token;
    }
    compressor->after_step();
  }
  EXPECT_EQ(compressor->decision().events.size(), 3U);
}

TEST(DecodeCadence, RKvCutsThePromptAndThenAtMultiples) {
  const auto run = start(30);
  const Method method = std::move(parse_methods("r_kv:window=4,pool=3,every=4").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("16"));
  compressor->prefill();
  EXPECT_EQ(run->layer(1)->slots().slots, 16);
  std::vector<int> cuts;
  for (int step = 1; step <= 10; ++step) {
    run->decode(next_token(*run), nullptr);
    if (compressor->after_step()) {
      cuts.push_back(run->tokens_seen());
    }
    expect_decision_is_the_cache(*run, compressor->decision());
  }
  EXPECT_EQ(cuts, (std::vector<int>{32, 36, 40}));
}

/// Candidates and chances come from decode rows alone: after the prompt nobody received anything.
TEST(DecodeCadence, CamMayCountDecodeRowsAlone) {
  for (const bool decode : {false, true}) {
    const auto run = start(24);
    const std::string received = decode ? "decode" : "all";
    const Method method =
        std::move(parse_methods("knorm | cam:chance=half,candidates=8,received=" + received +
                                " | decode:every=3,first_cut=prefill_end")
                      .front());
    const auto compressor = start_compressor(*run, method, Budget::parse("12"));
    compressor->prefill();
    EXPECT_EQ(compressor->decision().layers[0].edges.empty(), decode);
    for (int step = 1; step <= 9; ++step) {
      run->decode(next_token(*run), nullptr);
      compressor->after_step();
      expect_decision_is_the_cache(*run, compressor->decision());
    }
    EXPECT_FALSE(compressor->decision().layers[0].edges.empty());
  }
}

/// kvpress's CAMPress: the same tokens go from all heads, as soon as there is something to cut and
/// then every `every` steps; as many of them may merge as tokens were decoded since.
TEST(DecodeCadence, CamCutsAllHeadsAlikeAndCountsStepsSinceTheCut) {
  const auto run = start(20);
  const Method method = std::move(parse_methods("knorm | top_k:heads=mean | cam:chance=half | "
                                                "decode:trigger=since_cut,every=3")
                                      .front());
  const auto compressor = start_compressor(*run, method, Budget::parse("24"));
  compressor->prefill();
  std::vector<int> cuts;
  for (int step = 1; step <= 12; ++step) {
    run->decode(next_token(*run), nullptr);
    if (compressor->after_step()) {
      cuts.push_back(run->tokens_seen());
    }
    expect_decision_is_the_cache(*run, compressor->decision());
    EXPECT_EQ(live_tokens(*run, 1, 0), live_tokens(*run, 1, 1));
  }
  EXPECT_EQ(cuts, (std::vector<int>{25, 28, 31}));
}

TEST(DecodeCadence, ALiveRunMustKeepTheQueriesAMethodReads) {
  const auto needed = [](const char* text) {
    return queries_needed(parse_methods(text).front(), 500);
  };
  EXPECT_EQ(needed("knorm"), 0);
  EXPECT_EQ(needed("snapkv:window=128"), 128);
  EXPECT_EQ(needed("expected_attention"), 500);
  EXPECT_EQ(needed("scissorhands"), 400);
  EXPECT_EQ(needed("snapkv:window=8 | cascade:window=96"), 96);
  EXPECT_EQ(needed("asymkv"), 0);
}

/// Attention inside chunks needs each slot's own query.
TEST(DecodeCadence, NonCausalAttentionRefusesACutCache) {
  const auto run = start(20);
  const Method method =
      std::move(parse_methods("non_causal | decode:every=2,first_cut=prefill_end").front());
  const auto compressor = start_compressor(*run, method, Budget::parse("12"));
  compressor->prefill();
  run->decode(next_token(*run), nullptr);
  EXPECT_FALSE(compressor->after_step());
  run->decode(next_token(*run), nullptr);
  EXPECT_THROW(compressor->after_step(), Error);
}

TEST(DecodeCadence, RefusesBeforeAnyForwardPass) {
  const auto run = start(20);
  for (const char* text :
       {"snapkv:window=8 | adakv | decode", "knorm | threshold:at=-1 | decode"}) {
    const Method method = std::move(parse_methods(text).front());
    EXPECT_THROW(start_compressor(*run, method, Budget::parse("12")), Error) << text;
  }
  const Method method = std::move(parse_methods("snapkv:window=8 | decode").front());
  EXPECT_THROW(start_compressor(*run, method, Budget::parse("8")), Error);
  EXPECT_NO_THROW(start_compressor(*run, method, Budget::parse("9")));
  EXPECT_EQ(run->tokens_seen(), 0);
}

}  // namespace
}  // namespace kvscope::test
