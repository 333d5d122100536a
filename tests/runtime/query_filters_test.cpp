#include "query_filters.h"

#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <vector>

namespace kvscope {
namespace {

at::Tensor rows_of(std::vector<float> numbers, at::IntArrayRef sizes) {
  return at::from_blob(numbers.data(), sizes, at::kFloat).clone();
}

/// Two query heads along the axes: most rows of head 0 point east, of head 1 south. A filter points
/// the other way.
TEST(QueryFilters, PointAgainstMostQueriesAlongTheirMainDirection) {
  detail::QueryFilters filters(1, 4);
  filters.next_piece(3);
  filters.add(0, rows_of({2, 0, 3, 0, -1, 0, /**/ 0, -2, 0, -5, 0, 1}, {2, 3, 2}));
  filters.next_piece(1);
  filters.add(0, rows_of({1, 0, /**/ 0, -1}, {2, 1, 2}));
  const at::Tensor apart = filters.filter(0, 2);
  EXPECT_NEAR(apart[0][0].item<double>(), -1, 1e-6);
  EXPECT_NEAR(apart[0][1].item<double>(), 0, 1e-6);
  EXPECT_NEAR(apart[1][0].item<double>(), 0, 1e-6);
  EXPECT_NEAR(apart[1][1].item<double>(), 1, 1e-6);
  const at::Tensor group = filters.filter(0, 1);
  EXPECT_NEAR(group[0][0].item<double>(), -0.5, 1e-6);
  EXPECT_NEAR(group[0][1].item<double>(), 0.5, 1e-6);
}

/// Uncentred: a large mean is a direction, whatever varies beside it. Against numpy.linalg.svd of
/// the same rows: v1 = (0.992749, 0.120202).
TEST(QueryFilters, AreUncentredSingularVectors) {
  detail::QueryFilters filters(1, 4);
  filters.next_piece(4);
  filters.add(0, rows_of({8, 3, 8, -2, 9, 0, 7, 3}, {1, 4, 2}));
  const at::Tensor filter = filters.filter(0, 1);
  EXPECT_NEAR(filter[0][0].item<double>(), -0.992749, 1e-5);
  EXPECT_NEAR(filter[0][1].item<double>(), -0.120202, 1e-5);
}

TEST(QueryFilters, SampleAsManyRowsOfALongCorpusAsTheAuthors) {
  const std::int64_t total = 10000;
  detail::QueryFilters filters(1, total);
  for (std::int64_t first = 0; first < total; first += 2500) {
    filters.next_piece(2500);
    std::vector<float> numbers(2500 * 2, 1.0F);
    filters.add(0, rows_of(numbers, {1, 2500, 2}));
  }
  EXPECT_EQ(filters.rows(0), detail::QueryFilters::sample);
}

}  // namespace
}  // namespace kvscope
