#include "kvscope/kernels/greedy_diversity.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention_cases.h"
#include "kvscope/core/error.h"

namespace kvscope::testing {
namespace {

using Options = GreedyDiversityOptions;

/// The definition, one candidate and one pick at a time, in float64. `sure` picks have a margin
/// that float32 can see.
struct Plain {
  std::vector<int> order;
  std::size_t sure = 0;
};

Plain plain(const at::Tensor& scores, const at::Tensor& rows, const at::Tensor& present, int picks,
            const Options& options) {
  const at::Tensor x = rows.to(at::kDouble);
  const at::Tensor unit = x / x.norm(2, {-1}, true).clamp_min(1e-12);
  const at::Tensor cosine = unit.matmul(unit.t()).contiguous();
  const auto count = static_cast<int>(rows.size(0));
  const auto similar = [&](const double* row, int column) {
    return options.clip_at_zero ? std::max(row[column], 0.0) : row[column];
  };
  std::vector<double> most(static_cast<std::size_t>(count), -2);
  std::vector<double> sum(static_cast<std::size_t>(count), 0);
  std::vector<char> gone(static_cast<std::size_t>(count), 0);
  int members = 0;
  const auto add = [&](const double* row) {
    for (int candidate = 0; candidate < count; ++candidate) {
      const auto at = static_cast<std::size_t>(candidate);
      most[at] = std::max(most[at], similar(row, candidate));
      sum[at] += similar(row, candidate);
    }
    ++members;
  };
  if (present.defined()) {
    const at::Tensor p = present.to(at::kDouble);
    const at::Tensor cross =
        (p / p.norm(2, {-1}, true).clamp_min(1e-12)).matmul(unit.t()).contiguous();
    for (std::int64_t member = 0; member < p.size(0); ++member) {
      add(cross.const_data_ptr<double>() + member * count);
    }
  }
  Plain result;
  bool sure = true;
  for (int pick = 0; pick < picks; ++pick) {
    double top = -std::numeric_limits<double>::infinity();
    double second = top;
    int best = -1;
    for (int candidate = 0; candidate < count; ++candidate) {
      const auto at = static_cast<std::size_t>(candidate);
      if (gone[at] != 0) {
        continue;
      }
      double red = 0;
      if (members > 0) {
        red = options.aggregate == Options::Aggregate::max    ? most[at]
              : options.aggregate == Options::Aggregate::mean ? sum[at] / members
                                                              : sum[at];
      }
      const double objective =
          static_cast<double>(scores.const_data_ptr<float>()[candidate]) - options.lambda * red;
      if (objective > top) {
        second = top;
        top = objective;
        best = candidate;
      } else {
        second = std::max(second, objective);
      }
    }
    sure = sure && top - second > 1e-5 * std::max(1.0, std::abs(top));
    result.sure += sure ? 1 : 0;
    result.order.push_back(best);
    gone[static_cast<std::size_t>(best)] = 1;
    add(cosine.const_data_ptr<double>() + std::int64_t{best} * count);
  }
  return result;
}

std::vector<int> order_of(const at::Tensor& picks, int unit) {
  const auto* first = picks.const_data_ptr<std::int32_t>() + unit * picks.size(1);
  return {first, first + picks.size(1)};
}

std::vector<Options> all_options() {
  std::vector<Options> all;
  for (const double lambda : {0.0, 0.3, 1.0, 20.0}) {
    for (const auto aggregate :
         {Options::Aggregate::max, Options::Aggregate::mean, Options::Aggregate::sum}) {
      for (const bool clip : {false, true}) {
        all.push_back({lambda, aggregate, clip, Options::Objective::mmr});
      }
    }
  }
  return all;
}

TEST(GreedyDiversity, FollowsTheDefinition) {
  Random random(5);
  int sure = 0;
  for (const int candidates : {1, 15, 16, 33, 150}) {
    for (const int dim : {3, 64, 80, 128}) {
      const at::Tensor scores = random.tensor({2, candidates});
      const at::Tensor rows = random.tensor({2, candidates, dim});
      const int picks = std::max(1, candidates / 2);
      for (const Options& options : all_options()) {
        const at::Tensor picked = greedy_diversity(scores, rows, {}, picks, options);
        for (int unit = 0; unit < 2; ++unit) {
          const Plain expected = plain(scores[unit].contiguous(), rows[unit], {}, picks, options);
          const std::vector<int> order = order_of(picked, unit);
          for (std::size_t pick = 0; pick < expected.sure; ++pick) {
            ASSERT_EQ(order[pick], expected.order[pick]) << candidates << " " << dim << " " << pick;
            ++sure;
          }
        }
      }
    }
  }
  EXPECT_GT(sure, 10000);
}

TEST(GreedyDiversity, CountsWhatIsPresent) {
  Random random(7);
  const at::Tensor scores = random.tensor({2, 70});
  const at::Tensor rows = random.tensor({2, 70, 16});
  const at::Tensor present = random.tensor({2, 90, 16});
  for (const Options& options : all_options()) {
    const at::Tensor picked = greedy_diversity(scores, rows, present, 30, options);
    const Plain expected = plain(scores[1].contiguous(), rows[1], present[1], 30, options);
    for (std::size_t pick = 0; pick < expected.sure; ++pick) {
      ASSERT_EQ(order_of(picked, 1)[pick], expected.order[pick]) << pick;
    }
  }
}

TEST(GreedyDiversity, OfEqualObjectivesTheLowestCandidateIsPicked) {
  const at::Tensor scores = at::zeros({1, 100});
  at::Tensor rows = at::zeros({1, 100, 4});
  rows.select(2, 0).fill_(1);
  for (const Options& options : all_options()) {
    const std::vector<int> order = order_of(greedy_diversity(scores, rows, {}, 60, options), 0);
    for (int pick = 0; pick < 60; ++pick) {
      ASSERT_EQ(order[static_cast<std::size_t>(pick)], pick);
    }
  }
  Options fl;
  fl.objective = Options::Objective::fl;
  const std::vector<int> order = order_of(greedy_diversity(scores, rows, {}, 60, fl), 0);
  for (int pick = 0; pick < 60; ++pick) {
    ASSERT_EQ(order[static_cast<std::size_t>(pick)], pick);
  }
}

TEST(GreedyDiversity, RowsOfNoLengthAreSimilarToNothing) {
  Random random(9);
  const at::Tensor scores = random.tensor({1, 40});
  const at::Tensor rows = at::zeros({1, 40, 8});
  const std::vector<int> order = order_of(greedy_diversity(scores, rows, {}, 40, {}), 0);
  for (std::size_t pick = 1; pick < 40; ++pick) {
    EXPECT_GE(scores[0][order[pick - 1]].item<float>(), scores[0][order[pick]].item<float>());
  }
}

TEST(GreedyDiversity, ThreadsAndStridesChangeNothing) {
  Random random(11);
  const at::Tensor scores = random.tensor({9, 300});
  const at::Tensor rows = random.tensor({9, 64, 300}).transpose(1, 2);
  const int before = at::get_num_threads();
  for (const auto objective : {Options::Objective::mmr, Options::Objective::fl}) {
    Options options;
    options.objective = objective;
    at::set_num_threads(1);
    const at::Tensor one = greedy_diversity(scores, rows, {}, 80, options);
    at::set_num_threads(3);
    EXPECT_TRUE(one.equal(greedy_diversity(scores, rows.contiguous(), {}, 80, options)));
  }
  at::set_num_threads(before);
}

void expect_refused(const at::Tensor& scores, const at::Tensor& rows, const at::Tensor& present,
                    int picks, const Options& options, const std::string& words) {
  try {
    greedy_diversity(scores, rows, present, picks, options);
    ADD_FAILURE() << "not refused: " << words;
  } catch (const Error& error) {
    EXPECT_NE(error.message().find(words), std::string::npos) << error.message();
    EXPECT_FALSE(error.fix().empty());
  }
}

TEST(GreedyDiversity, RefusesWhatItCannotPickFrom) {
  Random random(13);
  const at::Tensor scores = random.tensor({2, 10});
  const at::Tensor rows = random.tensor({2, 10, 4});
  expect_refused(scores, rows, {}, 11, {}, "11 picks of 10");
  expect_refused(scores, rows, {}, -1, {}, "-1 picks");
  expect_refused(scores.to(at::kDouble), rows, {}, 3, {}, "float32");
  expect_refused(scores, rows.narrow(1, 0, 9), {}, 3, {}, "2 x 10 scores for 2 x 9 rows");
  expect_refused(scores, rows, random.tensor({2, 3, 5}), 3, {}, "differ from the candidates");
  Options negative;
  negative.lambda = -1;
  expect_refused(scores, rows, {}, 3, negative, "lambda is -1");
  at::Tensor broken = rows.clone();
  broken.select(0, 0).fill_(std::numeric_limits<float>::quiet_NaN());
  expect_refused(scores, broken, {}, 3, {}, "NaN");
  EXPECT_EQ(greedy_diversity(scores, rows, {}, 0, {}).size(1), 0);
}

}  // namespace
}  // namespace kvscope::testing
