/// AsymKV and KVSlimmer in live runs, against tests/golden/pair_merging.py: a float64 script that
/// shares nothing with kvscope.
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "kvscope/core/error.h"
#include "kvscope/core/merge_books.h"
#include "kvscope/methods/method.h"
#include "kvscope/model/model_file.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::test {
namespace {

using Json = nlohmann::json;

const Json& golden() {
  static const Json json =
      Json::parse(std::ifstream(KVSCOPE_SOURCE_DIR "/tests/golden/pair_merging.json"));
  return json;
}

TokenTable prompt_of(const std::vector<std::int32_t>& ids) {
  TokenTable table;
  for (std::size_t token = 0; token < ids.size(); ++token) {
    table.append(ids[token], static_cast<int>(token), Segment::context, "x");
  }
  table.prompt_tokens = table.context_tokens = table.size();
  return table;
}

std::shared_ptr<const Model> tiny_model() {
  static const std::shared_ptr<const Model> model =
      Model::load(ModelFile::open(KVSCOPE_SOURCE_DIR "/data/tiny.gguf"), {"cpu", "float32", 2});
  return model;
}

std::unique_ptr<LiveRun> start() {
  return LiveRun::start(tiny_model(), prompt_of(golden()["ids"].get<std::vector<std::int32_t>>()),
                        {});
}

constexpr const char* sizes = ":chunk=24,sink=4,cache=60,final_cut=true";

std::string text_of(const Json& method) {
  std::string text = method["method"].get<std::string>() + sizes;
  if (method["method"] == "asymkv") {
    text += ",gradient=float64";
  }
  for (const char* name : {"variant", "lsum", "proxy_value", "agg"}) {
    if (method.contains(name)) {
      text += std::string(",") + name + "=" + method[name].get<std::string>();
    }
  }
  return text;
}

struct Live {
  std::unique_ptr<LiveRun> run;
  Decision decision;
};

Live compressed(const std::string& text, const std::string& keep = "60") {
  Live live{start(), {}};
  const std::vector<Method> methods = parse_methods(text);
  live.decision = compress(*live.run, methods.front(), Budget::parse(keep), {true, true, 0});
  return live;
}

/// target, source -> edge of one event and KV head, edges to the target itself left out.
std::map<std::pair<int, int>, MergeEdge> edges_of(const LayerDecision& layer, int event,
                                                  int kv_head, bool own) {
  std::map<std::pair<int, int>, MergeEdge> edges;
  for (const MergeEdge& edge : layer.edges) {
    if (edge.event == event && edge.kv_head == kv_head && (edge.source == edge.target) == own) {
      edges[{edge.target, edge.source}] = edge;
    }
  }
  return edges;
}

/// Weights of KVSlimmer's keys, or AsymKV's finished keys: those are quotients of squared
/// gradients, here float64 from a float32 cache, so that channels where both gradients nearly
/// vanish lose digits, and later events see what the first ones lost. The chosen pairs are the same
/// all the same. `deviations`, where given,
/// collects the weights' instead of judging each: KVSlimmer's oracle divides differences of float32
/// gradients, which all but cancel in pairs that hardly matter to the loss.
void expect_key(const LayerDecision& layer, const MergeEdge& own, const Json& expected,
                std::vector<double>* deviations) {
  if (expected.is_number()) {
    const double exact = expected.get<double>();
    if (deviations != nullptr) {
      deviations->push_back(std::abs(own.key_weight - exact) / std::max(1.0, std::abs(exact)));
      return;
    }
    const bool inside = exact >= 0 && exact <= 1;  // else differences that nearly cancel
    EXPECT_NEAR(own.key_weight, exact, inside ? 1e-5 : 1e-3 * std::abs(exact));
    return;
  }
  ASSERT_GE(own.key_row, 0);
  double difference = 0;
  for (int channel = 0; channel < layer.key_row_dim; ++channel) {
    const auto found = static_cast<double>(
        layer.key_rows[static_cast<std::size_t>(own.key_row * layer.key_row_dim + channel)]);
    const double exact = expected[static_cast<std::size_t>(channel)].get<double>();
    EXPECT_NEAR(found, exact, own.event == 0 ? 2e-4 : 0.1);
    difference += std::abs(found - exact) / layer.key_row_dim;
  }
  EXPECT_LT(difference, own.event == 0 ? 5e-5 : 1e-2);
}

void expect_event(const LayerDecision& layer, int event, const Json& expected,
                  std::vector<double>* deviations) {
  for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
    const auto own = edges_of(layer, event, kv_head, true);
    const auto others = edges_of(layer, event, kv_head, false);
    ASSERT_EQ(others.size(), expected["merges"].size());
    for (const Json& merge : expected["merges"]) {
      const int target = merge[0];
      const int source = merge[1];
      ASSERT_TRUE(others.contains({target, source})) << target << " " << source;
      const Json& keys = merge[merge.size() - 1];  // finished keys where there are, else weights
      expect_key(layer, own.at({target, target}), keys[static_cast<std::size_t>(kv_head)],
                 deviations);
      EXPECT_EQ(layer.fate[layer.cell(kv_head, source)], Fate::merged);
    }
    std::set<int> dropped;
    for (int token = 0; token < layer.tokens; ++token) {
      const std::size_t cell = layer.cell(kv_head, token);
      if (layer.fate[cell] == Fate::dropped &&
          layer.removed_at[cell] == static_cast<std::uint32_t>(event)) {
        dropped.insert(token);
      }
    }
    EXPECT_EQ(dropped, std::set<int>(expected["dropped"].begin(), expected["dropped"].end()));
  }
}

void expect_logits(const at::Tensor& logits, const Json& expected, double tolerance) {
  for (std::size_t id = 0; id < expected.size(); ++id) {
    EXPECT_NEAR(logits[static_cast<std::int64_t>(id)].item<double>(), expected[id].get<double>(),
                tolerance);
  }
}

class PairMergingGolden : public ::testing::TestWithParam<int> {};

TEST_P(PairMergingGolden, LiveRunEqualsTheFloat64Script) {
  const Json& expected = golden()["cases"][static_cast<std::size_t>(GetParam())];
  SCOPED_TRACE(text_of(expected["method"]));
  const Live live = compressed(text_of(expected["method"]));
  ASSERT_EQ(live.decision.events.size(), expected["events"].size());
  EXPECT_FALSE(live.decision.replayed);
  // The oracle's weights are quotients of float32 gradients that all but cancel in some pairs; what
  // one such weight makes of a key reaches every later choice. Its first event is judged, on the
  // whole.
  const bool oracle = expected["method"].value("variant", "") == "oracle";
  std::vector<double> deviations;
  const std::size_t events = oracle ? 1 : expected["events"].size();
  for (std::size_t event = 0; event < events; ++event) {
    for (std::size_t layer = 0; layer < live.decision.layers.size(); ++layer) {
      expect_event(live.decision.layers[layer], static_cast<int>(event),
                   expected["events"][event][layer], oracle ? &deviations : nullptr);
    }
  }
  if (oracle) {
    ASSERT_GT(deviations.size(), 20u);
    std::sort(deviations.begin(), deviations.end());
    EXPECT_LT(deviations[deviations.size() / 2], 1e-5);
    EXPECT_LT(deviations[deviations.size() * 9 / 10], 1e-3);
    return;
  }
  for (std::size_t layer = 0; layer < live.decision.layers.size(); ++layer) {
    const auto evidence = live.run->layer(static_cast<int>(layer));
    const SlotTable& slots = evidence->slots();
    ASSERT_EQ(slots.slots, 60);
    for (int slot = 0; slot < slots.slots; ++slot) {
      const auto s = static_cast<std::size_t>(slot);
      EXPECT_EQ(slots.token[slots.cell(1, slot)], expected["slots"][layer][s].get<int>());
      EXPECT_EQ(slots.multiplicity[slots.cell(1, slot)],
                expected["multiplicity"][layer][s].get<float>());
    }
  }
  const double tolerance = expected["method"]["method"] == "asymkv" ? 1e-2 : 2e-4;
  expect_logits(live.run->logits(), expected["logits"], tolerance);
  live.run->forward(std::vector<std::int32_t>{17, 4, 250}, {});
  expect_logits(live.run->logits(), expected["after"], tolerance);
}

/// As the authors' code computes them: the same pairs, keys off where gradients nearly vanish.
TEST(PairMerging, Float32GradientsChooseTheSamePairs) {
  const std::string text = std::string("asymkv") + sizes;
  const Live single = compressed(text);
  const Live twice = compressed(text + ",gradient=float64");
  double difference = 0;
  int compared = 0;
  for (std::size_t layer = 0; layer < single.decision.layers.size(); ++layer) {
    const LayerDecision& a = single.decision.layers[layer];
    const LayerDecision& b = twice.decision.layers[layer];
    EXPECT_EQ(a.removed_at, b.removed_at);
    ASSERT_EQ(a.edges.size(), b.edges.size());
    for (std::size_t edge = 0; edge < a.edges.size() && a.edges[edge].event == 0; ++edge) {
      EXPECT_EQ(a.edges[edge].target, b.edges[edge].target);
      EXPECT_EQ(a.edges[edge].source, b.edges[edge].source);
      for (int channel = 0; a.edges[edge].key_row >= 0 && channel < a.key_row_dim; ++channel) {
        const auto at = static_cast<std::size_t>(a.edges[edge].key_row * a.key_row_dim + channel);
        difference +=
            std::abs(static_cast<double>(a.key_rows[at]) - static_cast<double>(b.key_rows[at]));
        ++compared;
      }
    }
  }
  ASSERT_GT(compared, 1000);
  EXPECT_LT(difference / compared, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(All, PairMergingGolden, ::testing::Range(0, 6));

// Rules of every such run.

struct Books {
  double held = 0;     ///< multiplicities of the live slots
  double dropped = 0;  ///< tokens that slots stood for when they were dropped
  double clamped = 0;  ///< lost to the clamp
};

/// Follows multiplicities through the edges of one KV head.
Books books_of(const Decision& decision, const LayerDecision& layer, int kv_head) {
  std::vector<double> count(static_cast<std::size_t>(layer.tokens), 1.0);
  Books books;
  for (int event = 0; event < static_cast<int>(decision.events.size()); ++event) {
    const std::vector<double> before = count;
    for (const auto& [pair, edge] : edges_of(layer, event, kv_head, false)) {
      const double carried = before[static_cast<std::size_t>(edge.source)];
      books.clamped += carried - static_cast<double>(edge.count);
      count[static_cast<std::size_t>(edge.target)] += static_cast<double>(edge.count);
    }
    for (int token = 0; token < layer.tokens; ++token) {
      const std::size_t cell = layer.cell(kv_head, token);
      if (layer.removed_at[cell] == static_cast<std::uint32_t>(event)) {
        books.dropped +=
            layer.fate[cell] == Fate::dropped ? before[static_cast<std::size_t>(token)] : 0;
        count[static_cast<std::size_t>(token)] = 0;
      }
    }
  }
  for (const double held : count) {
    books.held += held;
  }
  return books;
}

TEST(PairMerging, EveryTokenIsHeldDroppedOrClampedAway) {
  for (const char* text : {"asymkv", "kvslimmer:variant=code", "kvslimmer:variant=paper"}) {
    std::string method = text;
    method += (method.find(':') == std::string::npos ? ":" : ",") + std::string(sizes).substr(1);
    for (const char* more : {"", ",clamp=2", ",merger=chain", ",merger=chain,clamp=0"}) {
      SCOPED_TRACE(method + more);
      const Live live = compressed(method + more);
      double dropped = 0;
      double clamped = 0;
      double total_held = 0;
      for (const LayerDecision& layer : live.decision.layers) {
        const auto evidence = live.run->layer(layer.layer);
        const SlotTable& slots = evidence->slots();
        for (int kv_head = 0; kv_head < 2; ++kv_head) {
          const Books books = books_of(live.decision, layer, kv_head);
          EXPECT_NEAR(books.held + books.dropped + books.clamped, layer.tokens, 1e-9);
          double held = 0;
          for (int slot = 0; slot < slots.slots; ++slot) {
            held += static_cast<double>(slots.multiplicity[slots.cell(kv_head, slot)]);
          }
          EXPECT_NEAR(held, books.held, 1e-9);
          total_held += held;
          dropped += books.dropped;
          clamped += books.clamped;
          for (int sink = 0; sink < 4; ++sink) {
            EXPECT_EQ(fate_letter(layer, kv_head, sink), 'P');
          }
        }
      }
      const MergeBooks all = merge_books(live.decision);
      EXPECT_NEAR(all.held, total_held, 1e-6);
      EXPECT_NEAR(all.dropped, dropped, 1e-6);
      EXPECT_NEAR(all.clamped, clamped, 1e-6);
      EXPECT_NEAR(all.held + all.dropped + all.clamped, static_cast<double>(all.tokens), 1e-6);
      const std::string rule = more;
      EXPECT_EQ(dropped > 0, rule.find("chain") == std::string::npos);
      if (rule == ",clamp=2") {
        EXPECT_GT(clamped, 0);
      } else if (rule.find("clamp=0") != std::string::npos) {
        EXPECT_EQ(clamped, 0);
      }
    }
  }
}

TEST(PairMerging, ScoresAreTheProductOfTheirTermsAndDecideTheCut) {
  const Live live = compressed(std::string("asymkv") + sizes);
  const Decision& decision = live.decision;
  EXPECT_EQ(decision.term_names,
            (std::vector<std::string>{"pair_mass", "recency", "multiplicity"}));
  const auto last = static_cast<std::uint32_t>(decision.events.size() - 1);
  for (const LayerDecision& layer : decision.layers) {
    const std::size_t plane = layer.fate.size();
    int scored = 0;
    for (std::size_t cell = 0; cell < plane; ++cell) {
      if (std::isnan(layer.scores[cell])) {
        continue;
      }
      ++scored;
      EXPECT_NEAR(layer.scores[cell],
                  layer.terms[cell] * layer.terms[plane + cell] * layer.terms[2 * plane + cell],
                  1e-5 * std::abs(layer.scores[cell]) + 1e-9);
      const Cut& cut = layer.cut[cell / static_cast<std::size_t>(layer.tokens)];
      if (layer.removed_at[cell] == last) {
        EXPECT_LE(layer.scores[cell], cut.first_lost);
      } else if (layer.removed_at[cell] == alive) {
        EXPECT_GE(layer.scores[cell], cut.last_kept);
      }
    }
    EXPECT_GT(scored, 100);
  }
}

TEST(PairMerging, ABudgetOfEverythingIsTheOrdinaryRunBitForBit) {
  const Live live = compressed("kvslimmer:timing=budget", "1.0");
  const auto plain = start();
  plain->forward(plain->tokens().id, {});
  EXPECT_EQ(live.decision.layers[0].kept(0), 150);
  // Chunks instead of one pass: the same numbers up to rounding, and bitwise those of chunks.
  EXPECT_TRUE(at::allclose(live.run->logits(), plain->logits(), 1e-4, 1e-4));
  const auto chunked = start();
  const std::vector<std::int32_t> ids = chunked->tokens().id;
  for (std::size_t first = 0; first < ids.size(); first += 75) {
    chunked->forward(std::span(ids).subspan(first, 75), {});
  }
  EXPECT_TRUE(at::equal(live.run->logits(), chunked->logits()));
}

TEST(PairMerging, OurTimingMeetsEveryBudgetToTheSlot) {
  for (const char* keep : {"0.1", "0.2", "0.4", "37", "1.0"}) {
    const Live live = compressed("asymkv:timing=budget", keep);
    EXPECT_FALSE(live.decision.by_method);
    EXPECT_EQ(live.decision.granted_slots(), live.decision.budget_slots) << keep;
    EXPECT_EQ(live.decision.kept_slots(), live.decision.budget_slots) << keep;
  }
}

/// The error of starting `text` at `keep`, before any pass.
Error refusal(const std::string& text, const std::string& keep) {
  const auto run = start();
  const std::vector<Method> methods = parse_methods(text);
  try {
    start_compressor(*run, methods.front(), Budget::parse(keep));
  } catch (const Error& error) {
    EXPECT_EQ(run->tokens_seen(), 0);
    return error;
  }
  ADD_FAILURE() << text << " was not refused";
  return Error(ErrorCode::failed, "");
}

TEST(PairMerging, WhatCannotWorkIsRefusedBeforeAnyPass) {
  const Error timing = refusal("asymkv", "0.2");
  EXPECT_NE(timing.message().find("ends a prompt of 150 tokens with 150 slots"), std::string::npos);
  EXPECT_NE(timing.fix().find("timing=budget"), std::string::npos);
  EXPECT_NE(refusal("asymkv:sink=40,chunk=16,cache=60", "1.0").message().find("sinks"),
            std::string::npos);
  EXPECT_NE(refusal("kvslimmer:cache=8,sink=8,chunk=16", "1.0").message().find("sinks"),
            std::string::npos);
  const auto run = start();
  run->forward(std::span(run->tokens().id).subspan(0, 10), {});
  const std::vector<Method> methods = parse_methods("asymkv");
  EXPECT_THROW(start_compressor(*run, methods.front(), Budget::parse("1.0")), Error);
  EXPECT_THROW(decide(*run, methods.front(), Budget::parse("1.0")), Error);
}

TEST(PairMerging, TheReferenceReadsFiveChunksBeforeItCuts) {
  // cache 60, chunks of 24: 72 slots are the first to be too many; the last chunk stays whole.
  const Live live =
      compressed("asymkv:chunk=24,sink=4,cache=60", "1.0");  // reference timing: no final cut
  ASSERT_EQ(live.decision.events.size(), 4u);
  EXPECT_EQ(live.decision.events[0].tokens_seen, 72);
  EXPECT_EQ(live.decision.cut_tokens, 144);
  EXPECT_EQ(live.decision.layers[0].kept(0), 60 + 6);
  EXPECT_TRUE(live.decision.by_method);
}

}  // namespace
}  // namespace kvscope::test
