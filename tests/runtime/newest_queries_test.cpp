// The queries a live run remembers, against all of them.
#include <ATen/ops/cat.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "layer_statistics.h"

namespace kvscope::detail {
namespace {

/// Passes of queries, everything that was ever seen beside what is remembered.
class Passes {
 public:
  void add(LayerStatistics& statistics, int rows, int window) {
    const at::Tensor queries = at::rand({3, rows, 4});
    const at::Tensor lse = at::rand({3, rows});
    std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
    std::iota(positions.begin(), positions.end(), seen_);
    seen_ += rows;
    all_queries_ = all_queries_.defined() ? at::cat({all_queries_, queries}, 1) : queries;
    all_lse_ = all_lse_.defined() ? at::cat({all_lse_, lse}, 1) : lse;
    remember_queries(statistics, {queries, lse, positions}, window);
  }
  void expect_newest(const LayerStatistics& statistics, int window) const {
    const int kept = std::min(window, seen_);
    ASSERT_EQ(statistics.newest.count(), kept);
    EXPECT_EQ(statistics.queries_seen, seen_);
    EXPECT_EQ(statistics.newest.positions().back(), seen_ - 1);
    EXPECT_TRUE(statistics.newest.queries().equal(all_queries_.narrow(1, seen_ - kept, kept)));
    EXPECT_TRUE(statistics.newest.lse().equal(all_lse_.narrow(1, seen_ - kept, kept)));
  }

 private:
  at::Tensor all_queries_;
  at::Tensor all_lse_;
  int seen_ = 0;
};

TEST(NewestQueries, AreTheNewestAfterEveryPass) {
  for (const int prompt : {1, 5, 8, 20}) {
    LayerStatistics statistics;
    Passes passes;
    passes.add(statistics, prompt, 8);
    passes.expect_newest(statistics, 8);
    for (int step = 0; step < 40; ++step) {
      passes.add(statistics, step % 7 == 3 ? 3 : 1, 8);
      passes.expect_newest(statistics, 8);
    }
    passes.add(statistics, 11, 8);
    passes.expect_newest(statistics, 8);
  }
}

TEST(NewestQueries, AForkGoesItsOwnWay) {
  LayerStatistics statistics;
  Passes passes;
  passes.add(statistics, 6, 4);
  for (int step = 0; step < 3; ++step) {
    passes.add(statistics, 1, 4);
  }
  LayerStatistics fork = statistics.clone();
  Passes forked = passes;
  for (int step = 0; step < 9; ++step) {
    passes.add(statistics, 1, 4);
    forked.add(fork, 1, 4);
    passes.expect_newest(statistics, 4);
    forked.expect_newest(fork, 4);
  }
}

/// What was handed out before stays what it was.
TEST(NewestQueries, AViewOfEarlierQueriesIsNotOverwritten) {
  LayerStatistics statistics;
  Passes passes;
  passes.add(statistics, 4, 4);
  passes.add(statistics, 1, 4);
  const at::Tensor view = statistics.newest.queries();
  const at::Tensor copy = view.clone();
  for (int step = 0; step < 9; ++step) {
    passes.add(statistics, 1, 4);
  }
  EXPECT_TRUE(view.equal(copy));
}

}  // namespace
}  // namespace kvscope::detail
