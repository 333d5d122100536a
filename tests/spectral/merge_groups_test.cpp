#include "merge_groups.h"

#include <gtest/gtest.h>

namespace kvscope::spectral {
namespace {

constexpr auto means = CacheForm::Values::mean;
constexpr auto sums = CacheForm::Values::sum;

MergeEdge edge(int source, int target, int event, float weight, int key_row = -1) {
  MergeEdge made;
  made.source = source;
  made.target = target;
  made.event = event;
  made.key_weight = weight;
  made.value_weight = 1;
  made.key_row = key_row;
  return made;
}

LayerDecision layer_of(std::vector<MergeEdge> edges) {
  LayerDecision layer;
  layer.kv_heads = 1;
  layer.tokens = 8;
  layer.edges = std::move(edges);
  return layer;
}

TEST(MergeGroups, PairsOfOneEvent) {
  const LayerDecision layer = layer_of({edge(1, 1, 0, 0.25F), edge(2, 1, 0, 0.75F)});
  const auto groups = merge_groups(layer, 0, 8, &MergeEdge::key_weight, means);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].slot, 1);
  EXPECT_EQ(groups[0].members, (std::vector<int>{1, 2}));
  EXPECT_EQ(groups[0].weights, (std::vector<std::pair<int, double>>{{1, 0.25}, {2, 0.75}}));
  const auto values = merge_groups(layer, 0, 8, &MergeEdge::value_weight, means);
  EXPECT_EQ(values[0].weights, (std::vector<std::pair<int, double>>{{1, 0.5}, {2, 0.5}}))
      << "summed values count as their mean";
  EXPECT_TRUE(merge_groups(layer, 1, 8, &MergeEdge::key_weight, means).empty());
  EXPECT_TRUE(merge_groups(layer, 0, 2, &MergeEdge::key_weight, means).empty())
      << "token 2 is left out";
}

TEST(MergeGroups, ATargetWithoutItsOwnEdgeKeepsTheRest) {
  const LayerDecision layer = layer_of({edge(4, 2, 0, 0), edge(5, 2, 0, 0.25F)});
  const auto keys = merge_groups(layer, 0, 8, &MergeEdge::key_weight, means);
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_EQ(keys[0].members, (std::vector<int>{2, 4, 5}));
  EXPECT_EQ(keys[0].weights, (std::vector<std::pair<int, double>>{{2, 0.75}, {4, 0}, {5, 0.25}}));
  const auto values = merge_groups(layer, 0, 8, &MergeEdge::value_weight, sums);
  for (const auto& [token, weight] : values[0].weights) {
    EXPECT_NEAR(weight, 1.0 / 3, 1e-15) << "a sum of three, as its mean";
  }
}

TEST(MergeGroups, SlotsThatMergeAgain) {
  const LayerDecision layer =
      layer_of({edge(1, 1, 0, 0.5F), edge(2, 1, 0, 0.5F), edge(3, 3, 0, 0.5F), edge(4, 3, 0, 0.5F),
                edge(1, 1, 1, 0.25F), edge(3, 1, 1, 0.75F, 6)});
  const auto groups = merge_groups(layer, 0, 8, &MergeEdge::key_weight, means);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].members, (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(groups[0].key_row, 6) << "the last event's finished key";
  EXPECT_EQ(groups[0].weights,
            (std::vector<std::pair<int, double>>{{1, 0.125}, {2, 0.125}, {3, 0.375}, {4, 0.375}}));
}

TEST(MergeGroups, OverlappingPairsReadWhatWasThereBefore) {
  // AsymKV's pairs (1, 2) and (2, 3) of one event: slot 2 gives its old row to 1 while 3 joins it.
  const LayerDecision layer =
      layer_of({edge(1, 1, 0, 0.5F), edge(2, 1, 0, 0.5F), edge(3, 2, 0, 1.0F)});
  const auto groups = merge_groups(layer, 0, 8, &MergeEdge::key_weight, means);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].weights, (std::vector<std::pair<int, double>>{{1, 0.5}, {2, 0.5}}))
      << "token 3 did not reach slot 1";
}

TEST(MergeGroups, AChainOfOneEventMovesEachTokenOneStep) {
  const LayerDecision layer =
      layer_of({edge(1, 2, 0, 0.5F), edge(2, 3, 0, 0.5F), edge(3, 3, 0, 0.5F)});
  const auto groups = merge_groups(layer, 0, 8, &MergeEdge::key_weight, means);
  ASSERT_EQ(groups.size(), 1u) << "token 1 is alone in slot 2";
  EXPECT_EQ(groups[0].slot, 3);
  EXPECT_EQ(groups[0].members, (std::vector<int>{2, 3}));
}

TEST(MergeGroups, SeveralTargetsBelongToTheLargestShare) {
  const LayerDecision layer = layer_of(
      {edge(1, 1, 0, 0.9F), edge(5, 1, 0, 0.1F), edge(2, 2, 0, 0.6F), edge(5, 2, 0, 0.4F)});
  const auto groups = merge_groups(layer, 0, 8, &MergeEdge::key_weight, means);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].slot, 2);
  EXPECT_EQ(groups[0].members, (std::vector<int>{2, 5}));
}

}  // namespace
}  // namespace kvscope::spectral
