#include <gtest/gtest.h>

#include "kvscope/scene/fate_counts.h"
#include "made_decision.h"

namespace kvscope {
namespace {

TEST(FateCounts, CountsEachLetterOnce) {
  const FateCounts counts = count_fates("KPTMMEEEDS?");
  EXPECT_EQ(counts, (FateCounts{1, 1, 1, 2, 3, 1, 1}));
  EXPECT_EQ(counts.total(), 10) << "an unknown letter is not a fate";
  EXPECT_EQ(counts.holding(), 4);
  EXPECT_EQ(counts.removed(), 6);
  EXPECT_EQ(counts.of('E'), 3);
  EXPECT_EQ(counts.of('?'), 0);
  EXPECT_DOUBLE_EQ(counts.dropped_share(), 1.0 / 6);
}

TEST(FateCounts, OfNothing) {
  EXPECT_DOUBLE_EQ(count_fates("").kept_share(), 1.0);
  EXPECT_DOUBLE_EQ(count_fates("").dropped_share(), 0.0);
}

TEST(FateTable, TwoLayersTwoHeadsSixTokens) {
  const Decision decision = made_decision({{"PKEEEK", "PKMMEK"}, {"KKKKKK", "PEDEEK"}});
  const FateTable table = count_fates(decision);
  EXPECT_EQ(table.at(0, 0), (FateCounts{2, 1, 0, 0, 3, 0, 0}));
  EXPECT_EQ(table.at(0, 1), (FateCounts{1, 1, 1, 2, 1, 0, 0})) << "the target of an edge is T";
  EXPECT_EQ(table.at(1, 1), (FateCounts{1, 1, 0, 0, 3, 1, 0}));
  EXPECT_EQ(table.layer[0].total(), 12);
  EXPECT_EQ(table.total.total(), 24);
  EXPECT_EQ(table.total.holding(), 3 + 3 + 6 + 2);
}

TEST(HeadsHolding, PerTokenAndPerLayer) {
  const Decision decision = made_decision({{"PKEEEK", "PKMMES"}, {"KKKKKK", "PEDEEK"}});
  EXPECT_EQ(heads_holding(decision), (std::vector<int>{4, 3, 1, 1, 1, 4}));
  EXPECT_EQ(heads_holding_by_layer(decision),
            (std::vector<int>{2, 2, 0, 0, 0, 2, 2, 1, 1, 1, 1, 2}));
}

TEST(HeadList, WritesRuns) {
  EXPECT_EQ(head_list({}), "");
  EXPECT_EQ(head_list({3}), "h3");
  EXPECT_EQ(head_list({0, 1}), "h0,1");
  EXPECT_EQ(head_list({0, 2, 4, 5, 6, 7, 9}), "h0,2,4-7,9");
}

}  // namespace
}  // namespace kvscope
