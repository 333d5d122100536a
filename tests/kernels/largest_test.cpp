// The largest of numbers in pieces, against sorting them all.
#include "kvscope/kernels/largest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

namespace kvscope {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

using Pairs = std::vector<std::pair<std::int32_t, float>>;

Pairs pairs_of(const std::vector<RankedValue>& found) {
  Pairs pairs;
  for (const RankedValue& one : found) {
    pairs.emplace_back(one.index, one.value);
  }
  return pairs;
}

/// Products that are numbers, the largest first, equal ones in order.
Pairs sorted(const std::vector<ScaledValues>& pieces, std::size_t count) {
  Pairs all;
  for (const ScaledValues& piece : pieces) {
    for (std::int64_t at = 0; at < piece.count; ++at) {
      const float value = piece.values[at] * piece.factor;
      if (!std::isnan(value)) {
        all.emplace_back(piece.first_index + static_cast<std::int32_t>(at), value);
      }
    }
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  all.resize(std::min(all.size(), count));
  return all;
}

/// `size` values from index 7 on, cut into pieces of up to `longest` with factors of their own.
std::vector<ScaledValues> cut(const std::vector<float>& values, std::int64_t size,
                              std::int64_t longest, std::mt19937& random) {
  std::vector<ScaledValues> pieces;
  for (std::int64_t first = 0; first < size;) {
    const std::int64_t count =
        std::min(size - first, 1 + static_cast<std::int64_t>(random() % longest));
    const float factor = longest == size ? 1.0f : static_cast<float>(random() % 4) * 0.5f;
    pieces.push_back({values.data() + first, count, static_cast<std::int32_t>(7 + first), factor});
    first += count;
  }
  return pieces;
}

/// Maxima of every block of 16 of each piece, and pieces that know them.
std::vector<ScaledValues> with_maxima(std::vector<ScaledValues> pieces,
                                      std::vector<std::vector<float>>& maxima) {
  maxima.clear();
  for (ScaledValues& piece : pieces) {
    std::vector<float> best;
    for (std::int64_t at = 0; at < piece.count; ++at) {
      if (at % ScaledValues::block == 0) {
        best.push_back(piece.values[at]);
      }
      best.back() = std::max(best.back(), piece.values[at]);
    }
    maxima.push_back(std::move(best));
    piece.maxima = maxima.back().data();
  }
  return pieces;
}

/// Whatever the hint, and the hint of values before.
TEST(Largest, AreThoseOfSortingThemAllWhateverTheHint) {
  std::mt19937 random(5);
  std::vector<float> values(777);
  float followed = nan;
  std::vector<std::vector<float>> maxima;
  for (int round = 0; round < 200; ++round) {
    const std::int64_t size = round < 50 ? round : 50 + round * 3;
    for (float& value : values) {
      value = static_cast<float>(random() % (round % 3 == 0 ? 5 : 100000)) * 1e-5f -
              (round % 5 == 0 ? 0.5f : 0.0f);
    }
    if (round % 7 == 0) {
      values[static_cast<std::size_t>(random() % 777)] = nan;
    }
    for (const std::int64_t longest : {size, std::int64_t{100}, std::int64_t{9}}) {
      const auto pieces = cut(values, size, std::max<std::int64_t>(1, longest), random);
      const Pairs expected = sorted(pieces, 32);
      for (float hint : {nan, -1.0f, 0.0f, 0.5f, 0.97f, 2.0f}) {
        float same = hint;
        EXPECT_EQ(pairs_of(largest(pieces, 32, hint)), expected) << round << ", hint " << hint;
        if (round % 7 != 0) {  // a block with a number that is none has no maximum
          EXPECT_EQ(pairs_of(largest(with_maxima(pieces, maxima), 32, same)), expected) << round;
        }
      }
      EXPECT_EQ(pairs_of(largest(pieces, 32, followed)), expected) << round;
    }
  }
  float hint = 0;
  const ScaledValues ten{values.data(), 10, 0, 1};
  EXPECT_TRUE(largest({&ten, 1}, 0, hint).empty());
  EXPECT_TRUE(largest({}, 3, hint).empty());
}

}  // namespace
}  // namespace kvscope
