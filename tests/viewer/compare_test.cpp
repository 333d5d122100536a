#include "kvscope/report/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "made_decision.h"

namespace kvscope {
namespace {

TEST(CompareDecisions, ByHand) {
  const Decision a = made_decision({{"KKEEPK"}, {"KMKKEE"}});
  Decision b = made_decision({{"KKEEPK"}, {"KKKEEE"}});
  b.keep = "0.4";
  EXPECT_TRUE(compare_decisions(a, a, {}).differences.empty());
  const Comparison found = compare_decisions(a, b, {});
  ASSERT_GE(found.differences.size(), 3u);
  EXPECT_EQ(found.differences[0].what, "keep");
  EXPECT_EQ(found.differences[0].first, "0.5 | 0.4");
  const auto named = [&](const std::string& what) {
    for (const Difference& difference : found.differences) {
      if (difference.what == what) {
        return difference;
      }
    }
    return Difference{};
  };
  // Layer 1: T against K at token 0, M against K at token 1, K against E at token 3.
  EXPECT_EQ(named("fates, layer 1").count, 3);
  EXPECT_EQ(named("fates, layer 1").total, 6);
  EXPECT_EQ(named("fates, layer 1").first, "kv_head 0, token 0: T | K");
  EXPECT_EQ(named("fates, layer 0").count, 0);
  EXPECT_EQ(named("merge edges, layer 1").count, 2);
  EXPECT_EQ(named("merge edges, layer 1").first, "event 0, kv_head 0: 0 into 0 only in A");
}

TEST(CompareDecisions, NumbersWithinTheToleranceAreEqual) {
  Decision a = made_decision({{"KE"}});
  Decision b = a;
  a.layers[0].scores = {1.0f, NAN};
  b.layers[0].scores = {1.25f, NAN};
  EXPECT_TRUE(compare_decisions(a, b, {0.25, 0}).differences.empty());
  EXPECT_TRUE(compare_decisions(a, b, {0, 0.25}).differences.empty());
  const Comparison apart = compare_decisions(a, b, {0.2, 0.0});
  ASSERT_EQ(apart.differences.size(), 1u);
  EXPECT_EQ(apart.differences[0].what, "scores, layer 0");
  EXPECT_EQ(apart.differences[0].count, 1);
  EXPECT_DOUBLE_EQ(apart.differences[0].largest, 0.25);
  EXPECT_DOUBLE_EQ(apart.differences[0].relative, 0.25);
  b.layers[0].scores = {1.0f, 2.0f};  // a NaN against a number
  const Comparison infinite = compare_decisions(a, b, {1e9, 1e9});
  ASSERT_EQ(infinite.differences.size(), 1u);
  EXPECT_TRUE(std::isinf(infinite.differences[0].largest));
  const auto json = nlohmann::json::parse(to_json(infinite));
  EXPECT_FALSE(json["equal"]);
  EXPECT_TRUE(json["differences"][0]["largest"].is_null());
  EXPECT_NE(to_text(infinite).find("scores, layer 0"), std::string::npos);
}

}  // namespace
}  // namespace kvscope
