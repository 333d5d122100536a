#include "row_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace kvscope::detail {
namespace {

using Ranges = std::vector<std::pair<std::int64_t, std::int64_t>>;

Ranges ranges_of(std::int64_t rows, std::int64_t columns) {
  Ranges ranges;
  std::mutex mutex;
  for_row_ranges(rows, columns, [&](std::int64_t first, std::int64_t last) {
    const std::lock_guard lock(mutex);
    ranges.emplace_back(first, last);
  });
  std::sort(ranges.begin(), ranges.end());
  return ranges;
}

TEST(RowRanges, HoldEveryRowOnceAndBeginAtMultiplesOfFour) {
  for (const std::int64_t rows : {0, 1, 3, 113, 114, 576, 960, 3071, 49152}) {
    for (const std::int64_t columns : {0, 1, 64, 576, 1536, 200000}) {
      std::int64_t next = 0;
      for (const auto& [first, last] : ranges_of(rows, columns)) {
        EXPECT_EQ(first, next) << rows << " x " << columns;
        EXPECT_TRUE(last > first || rows == 0) << rows << " x " << columns;
        EXPECT_EQ(first % 4, 0) << rows << " x " << columns;
        next = last;
      }
      EXPECT_EQ(next, rows) << rows << " x " << columns;
    }
  }
}

TEST(RowRanges, BecomeSmallerTowardsTheEndWhereThereIsWorkForTwo) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const Ranges large = ranges_of(49152, 576);
  const Ranges small = ranges_of(100, 576);
  at::set_num_threads(before);
  ASSERT_GT(large.size(), 8U);
  const auto size = [](const auto& range) { return range.second - range.first; };
  EXPECT_GT(size(large.front()), 20 * size(large[large.size() - 2]));
  EXPECT_EQ(small.size(), 1U) << "less than is worth a thread";
}

}  // namespace
}  // namespace kvscope::detail
