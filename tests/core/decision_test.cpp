#include "kvscope/core/decision.h"

#include <gtest/gtest.h>

#include <functional>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

void lose(LayerDecision& layer, int kv_head, int token, Fate fate, Reason reason) {
  layer.fate[layer.cell(kv_head, token)] = fate;
  layer.reason[layer.cell(kv_head, token)] = reason;
  layer.removed_at[layer.cell(kv_head, token)] = 0;
}

/// One layer, two heads, six tokens: token 1 merged into 2, token 3 evicted, token 4 dropped in
/// head 0; three evictions in head 1.
Decision hand_made() {
  Decision decision;
  decision.method = "hand";
  decision.kv_heads = 2;
  decision.query_heads = 4;
  decision.tokens = decision.cut_tokens = 6;
  decision.budget_slots = 6;
  decision.events.push_back({0, 6, 0});
  LayerDecision layer = LayerDecision::keep_all(0, 2, 6);
  layer.granted = {3, 3};
  for (std::size_t cell = 0; cell < layer.reason.size(); ++cell) {
    layer.reason[cell] = Reason::score;
  }
  layer.reason[layer.cell(0, 0)] = Reason::sink;
  lose(layer, 0, 1, Fate::merged, Reason::score);
  lose(layer, 0, 3, Fate::evicted, Reason::score);
  lose(layer, 0, 4, Fate::dropped, Reason::score);
  for (int token : {0, 2, 4}) {
    lose(layer, 1, token, Fate::evicted, Reason::score);
  }
  layer.edges = {{0, 1, 2, 0, 0.25f, 0.25f, 1.0f, -1}, {0, 2, 2, 0, 0.75f, 0.75f, 1.0f, -1}};
  decision.layers.push_back(layer);
  return decision;
}

TEST(Decision, LettersAreThoseOfTheDesign) {
  const Decision decision = hand_made();
  EXPECT_EQ(fate_letters(decision.layers[0]), "PMTEDKEKEKEK");
  EXPECT_EQ(fate_letter(decision.layers[0], 0, 2), 'T');
  EXPECT_EQ(decision.layers[0].kept(0), 3);
  EXPECT_EQ(decision.kept_slots(), 6);
}

TEST(Decision, SoundOnePasses) {
  EXPECT_TRUE(violations(hand_made()).empty());
}

TEST(Decision, EachBrokenRuleIsNamed) {
  const auto broken = [](const std::function<void(Decision&)>& change) {
    Decision decision = hand_made();
    change(decision);
    return violations(decision);
  };
  const auto expect = [](const std::vector<std::string>& sentences, const std::string& part) {
    ASSERT_FALSE(sentences.empty()) << "nothing found, expected: " << part;
    EXPECT_NE(sentences.front().find(part), std::string::npos) << sentences.front();
  };
  expect(broken([](Decision& d) { d.layers[0].removed_at[3] = alive; }),
         "removed_at says otherwise");
  expect(broken([](Decision& d) { d.layers[0].edges.clear(); }), "without an edge");
  expect(broken([](Decision& d) { d.layers[0].edges.push_back({0, 3, 2, 0, 0.1f, 0.1f, 1.0f, -1}); }),
         "has an edge to another token");
  expect(broken([](Decision& d) { d.layers[0].edges[0].key_weight = 0.0f / 0.0f; }), "not finite");
  expect(broken([](Decision& d) { d.layers[0].edges[0].target = 6; }), "out of range");
  expect(broken([](Decision& d) { d.layers[0].granted[1] = 2; }), "holds 3 slots of 2");
  expect(broken([](Decision& d) { d.budget_slots = 7; }), "the budget is 7");
  expect(broken([](Decision& d) { d.layers[0].fate.pop_back(); }), "planes do not have");
  expect(broken([](Decision& d) { d.layers[0].removed_at[3] = 5; }), "removed at event 5");
}

TEST(Decision, KeepAllIsSoundAndRemovesNothing) {
  Decision decision;
  decision.kv_heads = 2;
  decision.tokens = decision.cut_tokens = 4;
  decision.budget_slots = 8;
  decision.layers.push_back(LayerDecision::keep_all(0, 2, 4));
  EXPECT_TRUE(violations(decision).empty());
  EXPECT_EQ(decision.kept_slots(), 8);
}

TEST(Decision, ValidateThrowsCorruptFile) {
  Decision decision = hand_made();
  decision.layers[0].edges.clear();
  EXPECT_THROW(validate(decision, "here"), Error);
}

}  // namespace
}  // namespace kvscope
