#include "kvscope/core/merge_books.h"

#include <gtest/gtest.h>

namespace kvscope {
namespace {

/// One head of eight tokens and two events: 1 and 2 merge into 0 (counted to 2 of 3), 3 is dropped;
/// then 0 with what it holds merges into 5, 6 is dropped, 7 is evicted.
Decision merged_twice() {
  Decision decision;
  decision.kv_heads = 1;
  decision.tokens = decision.cut_tokens = 8;
  decision.events = {{0, 8, 0}, {0, 8, 0}};
  LayerDecision layer = LayerDecision::keep_all(0, 1, 8);
  const auto lose = [&](int token, Fate fate, std::uint32_t event) {
    layer.fate[static_cast<std::size_t>(token)] = fate;
    layer.removed_at[static_cast<std::size_t>(token)] = event;
  };
  layer.edges = {
      {0, 1, 0, 0, 0.3f, 1, 1, -1}, {0, 2, 0, 0, 0.3f, 1, 0, -1}, {0, 0, 5, 1, 0.5f, 1, 2, -1}};
  lose(1, Fate::merged, 0);
  lose(2, Fate::merged, 0);
  lose(3, Fate::dropped, 0);
  lose(0, Fate::merged, 1);
  lose(6, Fate::dropped, 1);
  lose(7, Fate::evicted, 1);
  decision.layers.push_back(layer);
  return decision;
}

TEST(MergeBooksTest, EveryTokenIsSomewhere) {
  const MergeBooks books = merge_books(merged_twice());
  EXPECT_EQ(books.tokens, 8);
  EXPECT_EQ(books.removed_slots, 6);
  EXPECT_EQ(books.dropped_slots, 2);
  EXPECT_EQ(books.held, 1 + 3);  // token 4, and 5 with two more
  EXPECT_EQ(books.dropped, 2);
  EXPECT_EQ(books.evicted, 1);
  EXPECT_EQ(books.clamped, 1);
}

TEST(MergeBooksTest, WhatAMergedSlotHeldIsDroppedWithIt) {
  Decision decision = merged_twice();
  LayerDecision& layer = decision.layers.front();
  layer.edges.pop_back();
  layer.fate[0] = Fate::dropped;
  const MergeBooks books = merge_books(decision);
  EXPECT_EQ(books.dropped, 2 + 2);
  EXPECT_EQ(books.held, 2);
  EXPECT_EQ(books.held + books.dropped + books.evicted + books.clamped, 8);
}

TEST(MergeBooksTest, WhereNoMergeCountsAMergedTokenIsUncountedNotClamped) {
  Decision decision = merged_twice();
  for (MergeEdge& edge : decision.layers.front().edges) {
    edge.count = 0;
  }
  EXPECT_FALSE(counts_merged(decision));
  const MergeBooks books = merge_books(decision);
  EXPECT_EQ(books.clamped, 0);
  EXPECT_EQ(books.uncounted, 3);  // 1, 2 and 0
  EXPECT_EQ(books.held, 2);       // 4 and 5
  EXPECT_EQ(books.held + books.dropped + books.evicted + books.uncounted, 8);
}

TEST(MergeBooksTest, OneHeadUpToAnEvent) {
  const Decision decision = merged_twice();
  EXPECT_TRUE(counts_merged(decision));
  const MergeBooks first = merge_books(decision, 0, 0, 1);
  EXPECT_EQ(first.removed_slots, 3);
  EXPECT_EQ(first.dropped, 1);
  EXPECT_EQ(first.evicted, 0);
  EXPECT_EQ(first.held + first.dropped + first.clamped, 8);
}

}  // namespace
}  // namespace kvscope
