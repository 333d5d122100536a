/// Closed loops over the prompt's rows, in live runs, against tests/golden/closed_loops.py: a
/// float64 script that shares nothing with kvscope.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "fake_model.h"
#include "kvscope/core/error.h"
#include "kvscope/methods/method.h"
#include "kvscope/model/model_file.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::test {
namespace {

using Json = nlohmann::json;

const Json& golden() {
  static const Json json =
      Json::parse(std::ifstream(KVSCOPE_SOURCE_DIR "/tests/golden/closed_loops.json"));
  return json;
}

std::unique_ptr<LiveRun> start_golden(int prompt_tokens) {
  static const std::shared_ptr<const Model> model =
      Model::load(ModelFile::open(KVSCOPE_SOURCE_DIR "/data/tiny.gguf"), {"cpu", "float32", 2});
  const std::vector<std::int32_t> ids = golden()["ids"];
  TokenTable table;
  for (int token = 0; token < prompt_tokens; ++token) {
    table.append(ids[static_cast<std::size_t>(token)], token, Segment::context, "x");
  }
  table.prompt_tokens = table.context_tokens = table.size();
  return LiveRun::start(model, table, {});
}

std::unique_ptr<LiveRun> start(int prompt_tokens) {
  return LiveRun::start(fake_model(), fake_prompt(prompt_tokens), {});
}

Method method_of(const std::string& text) {
  return std::move(parse_methods(text).front());
}

/// {tokens seen at the cut, token} of what a KV head lost, in order.
std::set<std::pair<int, int>> losses(const Decision& decision, int layer, int kv_head) {
  const LayerDecision& here = decision.layers[static_cast<std::size_t>(layer)];
  std::set<std::pair<int, int>> lost;
  for (int token = 0; token < here.tokens; ++token) {
    const std::uint32_t event = here.removed_at[here.cell(kv_head, token)];
    if (event != alive) {
      lost.emplace(decision.events[event].tokens_seen, token);
    }
  }
  return lost;
}

void expect_near_logits(const at::Tensor& logits, const Json& expected) {
  for (std::size_t token = 0; token < expected.size(); ++token) {
    EXPECT_NEAR(logits[static_cast<std::int64_t>(token)].item<double>(),
                expected[token].get<double>(), golden()["logit_tolerance"].get<double>());
  }
}

TEST(RowLoop, EvictsTokenByTokenWhatFloat64Evicts) {
  const std::vector<std::int32_t> ids = golden()["ids"];
  int compared = 0;
  for (const Json& one : golden()["cases"]) {
    SCOPED_TRACE(one["text"].get<std::string>());
    ASSERT_GT(one["gap"].get<double>(), 1e-4) << "too close for float32";
    const auto run = start_golden(one["prompt"]);
    const Method method = method_of(one["text"]);
    const auto compressor =
        start_compressor(*run, method, Budget::parse(one["slots"].dump()), {.scores = true});
    compressor->prefill();
    expect_near_logits(run->logits(), one["logits"]);
    for (std::size_t token = one["prompt"]; token < ids.size(); ++token) {
      run->decode(ids[token], nullptr);
      EXPECT_TRUE(compressor->after_step());
    }
    expect_near_logits(run->logits(), one["after"]);
    const Decision decision = compressor->decision();
    EXPECT_EQ(violations(decision), std::vector<std::string>{});
    EXPECT_FALSE(decision.replayed);
    for (int layer = 0; layer < run->shape().layers; ++layer) {
      for (int kv_head = 0; kv_head < run->shape().kv_heads; ++kv_head) {
        std::set<std::pair<int, int>> expected;
        for (const Json& lost :
             one["evicted"][static_cast<std::size_t>(layer)][static_cast<std::size_t>(kv_head)]) {
          expected.emplace(lost[0], lost[1]);
        }
        compared += static_cast<int>(expected.size());
        EXPECT_EQ(losses(decision, layer, kv_head), expected)
            << "layer " << layer << ", KV head " << kv_head;
      }
    }
  }
  EXPECT_GT(compared, 1000);
}

/// The first pass reads all rows that fit the budget; reading them one by one changes nothing.
TEST(RowLoop, RowsThatFitTheBudgetAreReadTogether) {
  const auto run = start(24);
  const Method method = method_of("h2o:recent=0.25 | rows");
  const auto compressor = start_compressor(*run, method, Budget::parse("12"));
  compressor->prefill();
  const auto slow = start(24);
  Decision decision;
  const Method once = method_of("h2o:recent=0.25");
  for (int token = 0; token < 24; ++token) {
    slow->forward(std::vector<std::int32_t>{slow->tokens().id[static_cast<std::size_t>(token)]},
                  {.statistics = true});
    if (slow->layer(0)->slots().slots > 12) {
      DecideOptions options;
      options.before = decision.events.empty() ? nullptr : &decision;
      Decision next = decide(*slow, once, Budget::parse("12"), options);
      slow->apply(next);
      decision = std::move(next);
    }
  }
  EXPECT_EQ(decision.events.size(), 12U);
  const Decision whole = compressor->decision();
  ASSERT_EQ(whole.events.size(), 12U);
  EXPECT_EQ(whole.events.front().tokens_seen, 13);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(whole.layers[layer].removed_at, decision.layers[layer].removed_at);
  }
  EXPECT_LT((run->logits() - slow->logits()).abs().max().item<double>(), 1e-5);
}

/// A block of the prompt's length is the single cut after prefill, and different blocks differ.
TEST(RowLoop, OneBlockIsTheCutAfterPrefill) {
  for (const std::string scorer :
       {"h2o:recent=0.25", "tova", "knorm", "observed_attention", "snapkv:window=4"}) {
    const auto once = start(30);
    const Decision single = compress(*once, method_of(scorer), Budget::parse("10"));
    const auto run = start(30);
    const Decision block =
        compress(*run, method_of(scorer + " | rows:block=30"), Budget::parse("10"));
    ASSERT_EQ(block.events.size(), 1U);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      EXPECT_EQ(block.layers[layer].fate, single.layers[layer].fate) << scorer;
      EXPECT_EQ(block.layers[layer].reason, single.layers[layer].reason) << scorer;
    }
    EXPECT_TRUE(run->logits().equal(once->logits()));
  }
}

TEST(RowLoop, NeverHoldsMoreThanTheBudgetAndABlock) {
  for (const int block : {1, 5}) {
    const auto run = start(33);
    const Method method = method_of("knorm | rows:block=" + std::to_string(block));
    const auto compressor = start_compressor(*run, method, Budget::parse("10"));
    compressor->prefill();
    EXPECT_EQ(run->layer(1)->slots().slots, 10);
    const Decision decision = compressor->decision();
    EXPECT_EQ(decision.events.size(), block == 1 ? 23U : 5U);
    EXPECT_EQ(decision.events.back().tokens_seen, 33);
    run->decode(3, nullptr);
    EXPECT_TRUE(compressor->after_step());
    EXPECT_EQ(run->layer(1)->slots().slots, 10);
  }
}

TEST(RowLoop, CutsMayEndWithThePrompt) {
  const auto run = start(20);
  const Method method = method_of("tova | rows:decode=false");
  const auto compressor = start_compressor(*run, method, Budget::parse("8"));
  compressor->prefill();
  for (int step = 1; step <= 3; ++step) {
    run->decode(step, nullptr);
    EXPECT_FALSE(compressor->after_step());
  }
  EXPECT_EQ(run->layer(0)->slots().slots, 11);
}

TEST(RowLoop, RefusesBeforeAnyForwardPass) {
  const auto run = start(20);
  for (const char* text : {"snapkv:window=8 | adakv | rows", "knorm | threshold:at=-1 | rows"}) {
    const Method method = method_of(text);
    EXPECT_THROW(start_compressor(*run, method, Budget::parse("12")), Error) << text;
  }
  const Method window = method_of("snapkv:window=12 | rows");
  EXPECT_THROW(start_compressor(*run, window, Budget::parse("12")), Error);
  EXPECT_EQ(run->tokens_seen(), 0);
  run->prefill(true, nullptr);
  const Method h2o = method_of("h2o | rows");
  EXPECT_THROW(start_compressor(*run, h2o, Budget::parse("12")), Error) << "the prompt is read";
  EXPECT_TRUE(h2o.cuts_while_reading());
}

}  // namespace
}  // namespace kvscope::test
