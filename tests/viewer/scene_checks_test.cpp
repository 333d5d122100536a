#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kvscope/scene/checks.h"
#include "made_decision.h"

namespace kvscope {
namespace {

const Finding* find(const std::vector<Finding>& findings, const std::string& id) {
  const auto found = std::find_if(findings.begin(), findings.end(),
                                  [&](const Finding& finding) { return finding.id == id; });
  return found == findings.end() ? nullptr : &*found;
}

TEST(CheckDecision, SoundDecisionHasNoFinding) {
  const Decision decision = made_decision({{"PPPPKEEK", "PPPPEKEK"}});
  EXPECT_TRUE(check_decision(decision, nullptr).empty());
}

TEST(CheckDecision, NothingRemoved) {
  Decision decision = made_decision({{"KKKK", "KKKK"}});
  EXPECT_TRUE(check_decision(decision, nullptr).empty()) << "a budget of everything is no finding";
  decision.budget_slots = 4;
  const auto findings = check_decision(decision, nullptr);
  ASSERT_NE(find(findings, "noop"), nullptr);
  EXPECT_EQ(find(findings, "budget"), nullptr) << "said once";
}

TEST(CheckDecision, EmptyHeadIsAnError) {
  const auto findings =
      check_decision(made_decision({{"PPPPKK", "PPPPKE"}, {"PPPPKK", "EEEEEE"}}), nullptr);
  const Finding* empty = find(findings, "empty");
  ASSERT_NE(empty, nullptr);
  EXPECT_EQ(empty->severity, Severity::error);
  EXPECT_EQ(empty->layer, 1);
  EXPECT_EQ(empty->kv_head, 1);
}

TEST(CheckDecision, BudgetMissedIsMilderWhenTheMethodSetsItsOwn) {
  Decision decision = made_decision({{"PPPPKKEE", "PPPPKEKE"}});
  decision.budget_slots = 8;
  decision.by_method = true;
  const auto findings = check_decision(decision, nullptr);
  ASSERT_NE(find(findings, "budget"), nullptr);
  EXPECT_EQ(find(findings, "budget")->severity, Severity::info);
  EXPECT_NE(find(findings, "budget")->text.find("+50.0 %"), std::string::npos);
}

TEST(CheckDecision, LostSinksAndTemplateTokens) {
  TokenTable tokens;
  for (int token = 0; token < 6; ++token) {
    tokens.append(token, token, token >= 4 ? Segment::question : Segment::context, "x");
  }
  const auto findings =
      check_decision(made_decision({{"EKKKKE", "EEKKKE"}, {"KKKKKE", "EKKKKE"}}), &tokens);
  ASSERT_NE(find(findings, "sink"), nullptr);
  EXPECT_EQ(find(findings, "sink")->token, 0) << "lost in 3 of 4 heads; token 1 in 1 of 4";
  EXPECT_EQ(find(findings, "sink")->count, 1);
  ASSERT_NE(find(findings, "special"), nullptr);
  EXPECT_EQ(find(findings, "special")->token, 5);
}

TEST(CheckDecision, ConstantScoresAndTies) {
  Decision decision = made_decision({{"PPPPKKEE", "PPPPKEKE"}});
  LayerDecision& layer = decision.layers[0];
  const float none = std::numeric_limits<float>::quiet_NaN();
  layer.scores = {none, none, none, none, 1, 1, 1, 1, none, none, none, none, 3, 2, 2, 1};
  layer.cut[1].last_kept = 2;
  const auto findings = check_decision(decision, nullptr);
  ASSERT_NE(find(findings, "constant"), nullptr);
  EXPECT_EQ(find(findings, "constant")->kv_head, 0);
  ASSERT_NE(find(findings, "ties"), nullptr);
  EXPECT_EQ(find(findings, "ties")->kv_head, 1);
}

TEST(CheckDecision, DropsOfAMerger) {
  const auto findings = check_decision(made_decision({{"PPPPKMMD", "PPPPKMDK"}}), nullptr);
  ASSERT_NE(find(findings, "drops"), nullptr);
  EXPECT_EQ(find(findings, "drops")->count, 2);
}

TEST(CheckDecision, IdenticalHeads) {
  EXPECT_NE(find(check_decision(made_decision({{"PPPPEK", "PPPPEK"}}), nullptr), "identical"),
            nullptr);
  EXPECT_EQ(find(check_decision(made_decision({{"PPPPEK", "PPPPKE"}}), nullptr), "identical"),
            nullptr);
}

TEST(CheckDecision, OutlyingHead) {
  Decision decision = made_decision({{"PPPPKE", "PPPPEK"}}, 2);
  decision.metrics.output_error = {0.01f, 0.02f, 0.01f, 0.5f};
  const auto findings = check_decision(decision, nullptr);
  ASSERT_NE(find(findings, "outlier"), nullptr);
  EXPECT_EQ(find(findings, "outlier")->kv_head, 1) << "query head 3 of 4 uses KV head 1";
}

TEST(CheckDecision, MergedTokenThatHandsOverTooLittle) {
  Decision decision = made_decision({{"PPPPKM", "PPPPKM"}});
  for (MergeEdge& edge : decision.layers[0].edges) {
    if (edge.kv_head == 1 && edge.source == 5) {
      edge.count = 0.25f;
    }
  }
  const auto findings = check_decision(decision, nullptr);
  ASSERT_NE(find(findings, "mass"), nullptr);
  EXPECT_EQ(find(findings, "mass")->kv_head, 1);
}

TEST(CheckDecision, BrokenRulesComeFirst) {
  Decision decision = made_decision({{"PPPPKE", "EPPPEK"}});
  decision.layers[0].removed_at[decision.layers[0].cell(0, 5)] = alive;
  const auto findings = check_decision(decision, nullptr);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].id, "rules");
  EXPECT_EQ(findings[0].severity, Severity::error);
}

TEST(CheckDecision, ContradictingSizesAreReportedNotRead) {
  Decision decision = made_decision({{"PPPPKE", "PPPPKE"}});
  decision.layers[0].fate.resize(3);
  const auto findings = check_decision(decision, nullptr);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].id, "rules");
}

TEST(CheckDecision, TokensAfterTheCutAreNotItsBudget) {
  Decision decision = made_decision({{"PPPPKEEEKK", "PPPPEKEEKK"}});
  decision.cut_tokens = 8;
  decision.budget_slots = 10;
  decision.layers[0].granted = {5, 5};
  EXPECT_EQ(find(check_decision(decision, nullptr), "budget"), nullptr);
}

TEST(CheckDecision, FrozenCache) {
  Decision decision =
      made_decision({{std::string(4, 'P') + std::string(6, 'K') + std::string(20, 'E') + "KK",
                      std::string(4, 'P') + std::string(6, 'K') + std::string(20, 'E') + "KK"}});
  for (int step = 1; step <= 20; ++step) {
    decision.events.push_back({step, 10 + step, 0});
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      decision.layers[0].removed_at[decision.layers[0].cell(kv_head, 9 + step)] =
          static_cast<std::uint32_t>(step);
    }
  }
  EXPECT_NE(find(check_decision(decision, nullptr), "frozen"), nullptr);
}

}  // namespace
}  // namespace kvscope
