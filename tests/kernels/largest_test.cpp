// The largest of numbers in pieces, against sorting them all.
#include "kvscope/kernels/largest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "stats_cases.h"

namespace kvscope {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

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
    pieces.push_back(
        {values.data() + first, count, static_cast<std::int32_t>(7 + first), factor, nullptr});
    first += count;
  }
  return pieces;
}

/// The same pieces with the maxima of their groups.
std::vector<ScaledValues> with_maxima(std::vector<ScaledValues> pieces,
                                      std::vector<std::vector<float>>& maxima) {
  maxima.clear();
  for (ScaledValues& piece : pieces) {
    std::vector<float> best;
    for (std::int64_t at = 0; at < piece.count; ++at) {
      if (at % ScaledValues::group == 0) {
        best.push_back(-infinity);
      }
      best.back() = piece.values[at] > best.back() ? piece.values[at] : best.back();
    }
    maxima.push_back(std::move(best));
    piece.maxima = maxima.back().data();
  }
  return pieces;
}

/// With the maxima of groups and without, of pieces of any length, with numbers that are none.
TEST(Largest, AreThoseOfSortingThemAll) {
  std::mt19937 random(5);
  std::vector<float> values(4000);
  for (int round = 0; round < 200; ++round) {
    const std::int64_t size = round < 50 ? round : 50 + round * 19;
    for (float& value : values) {
      value = static_cast<float>(random() % (round % 3 == 0 ? 5 : 100000)) * 1e-5f -
              (round % 5 == 0 ? 0.5f : 0.0f);
    }
    for (int none = 0; round % 7 == 0 && none < 300; ++none) {
      values[random() % values.size()] = round % 2 == 0 ? nan : -infinity;
    }
    for (const std::int64_t longest : {size, std::int64_t{256}, std::int64_t{9}}) {
      const auto pieces = cut(values, size, std::max<std::int64_t>(1, longest), random);
      std::vector<std::vector<float>> maxima;
      for (const int count : {1, 32, 70}) {
        const Pairs expected = sorted(pieces, static_cast<std::size_t>(count));
        EXPECT_EQ(pairs_of(largest(pieces, count)), expected) << round << ", " << longest;
        EXPECT_EQ(pairs_of(largest(with_maxima(pieces, maxima), count)), expected) << round;
      }
    }
  }
  const ScaledValues ten{values.data(), 10, 0, 1, nullptr};
  EXPECT_TRUE(largest({&ten, 1}, 0).empty());
  EXPECT_TRUE(largest({}, 3).empty());
}

/// More equal ones than are asked for, and numbers of every size.
TEST(Largest, EqualOnesAndFarOnes) {
  std::vector<float> values(5000, 0.25f);
  values[4321] = 3e38f;
  values[17] = -3e38f;
  values[99] = 1e-40f;
  const ScaledValues all{values.data(), 5000, 0, 1, nullptr};
  Pairs expected = {{4321, 3e38f}};
  for (std::int32_t index = 0; expected.size() < 32; ++index) {
    if (index != 17) {
      expected.emplace_back(index, 0.25f);
    }
  }
  EXPECT_EQ(pairs_of(largest({&all, 1}, 32)), expected);
  for (std::size_t index = 0; index < values.size(); ++index) {
    values[index] = std::ldexp(index % 2 == 0 ? 1.0f : -1.0f, static_cast<int>(index % 250) - 125);
  }
  values[4000] = infinity;
  EXPECT_EQ(pairs_of(largest({&all, 1}, 32)), sorted({all}, 32));
}

TEST(Largest, LogProbabilitiesOfLogits) {
  for (const std::size_t size : {1U, 7U, 60U, 5000U, 49152U}) {
    std::mt19937 random(7);
    std::vector<float> logits(size);
    for (float& logit : logits) {
      logit = static_cast<float>(random() % 4000) * 0.01f - 30.0f;
    }
    double sum = 0;
    for (const float logit : logits) {
      sum += std::exp(double{logit});
    }
    const ScaledValues all{logits.data(), static_cast<std::int64_t>(size), 0, 1, nullptr};
    const Pairs expected = sorted({all}, 64);
    const auto run = [&] {
      return largest_log_probabilities(logits.data(), static_cast<std::int64_t>(size), 64);
    };
    const std::vector<RankedValue> found = run();
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t rank = 0; rank < found.size(); ++rank) {
      EXPECT_EQ(found[rank].index, expected[rank].first);
      EXPECT_NEAR(found[rank].value, double{expected[rank].second} - std::log(sum), 3e-6);
    }
    logits[size / 2] = -infinity;
    EXPECT_EQ(run().size(), size == 1 ? 0U : std::min<std::size_t>(size, 64));
    logits[size / 2] = infinity;
    EXPECT_TRUE(run().empty());
    logits[size / 2] = nan;
    EXPECT_TRUE(run().empty());
  }
  EXPECT_TRUE(largest_log_probabilities(nullptr, 0, 64).empty());
}

/// What the sets of inner loops find is the same.
TEST(Largest, EveryInstructionSet) {
  std::mt19937 random(6);
  std::vector<float> values(1003);
  for (float& value : values) {
    value = static_cast<float>(random() % 5000) * 1e-3f - 1.0f;
  }
  values[500] = nan;
  for (const tile::Functions* functions : testing::instruction_sets()) {
    std::vector<float> groups(63);
    functions->group_maxima(values.data(), 1003, groups.data());
    for (std::size_t group = 0; group < groups.size(); ++group) {
      float best = -infinity;
      for (std::size_t at = 16 * group; at < std::min<std::size_t>(1003, 16 * group + 16); ++at) {
        best = values[at] > best ? values[at] : best;
      }
      EXPECT_EQ(groups[group], best) << functions->name << group;
    }
    const float level = functions->level(groups.data(), 63, 20);
    const auto reaching =
        std::count_if(groups.begin(), groups.end(), [&](float one) { return one >= level; });
    EXPECT_GE(reaching, 20);
    EXPECT_LE(reaching, 25);
    EXPECT_EQ(functions->level(groups.data(), 10, 20), -infinity);
    const ScaledValues piece{values.data(), 1003, 0, 1, groups.data()};
    std::vector<float> numbers(63 * 16);
    std::vector<std::int32_t> first(63);
    const std::int64_t gathered = functions->gather(piece, level, numbers.data(), first.data());
    EXPECT_EQ(gathered, reaching);
    const ScaledValues whole{values.data(), 1003, 0, 1, nullptr};
    EXPECT_EQ(functions->gather(whole, level, numbers.data(), first.data()), 63);
    std::vector<RankedValue> found(tile::most_ranked);
    const auto list = [&](std::int64_t room) {
      return functions->list(numbers.data(), first.data(), 63, level, found.data(), room);
    };
    EXPECT_GT(list(10), 10);  // no room for all
    const std::int64_t count = list(tile::most_ranked);
    ASSERT_GE(count, 20);
    ASSERT_LE(count, tile::most_ranked);
    std::vector<RankedValue> best(20);
    functions->rank(found.data(), static_cast<int>(count), 20, best.data());
    EXPECT_EQ(pairs_of(best), sorted({piece}, 20)) << functions->name;
  }
}

}  // namespace
}  // namespace kvscope
