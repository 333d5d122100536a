/// TriAttention's score by hand and by its identities (specs of the paper's reference path).
#include "scorers/triattention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <complex>

#include "kvscope/core/error.h"

namespace kvscope::testing {
namespace {

using detail::FutureOffsets;
using detail::QueryCentres;
using detail::TriSettling;
using detail::TriTerms;
using Mode = TriSettling::Mode;

RopeParameters rope_of(const std::vector<double>& frequencies, double sigma = 1.0) {
  RopeParameters rope;
  rope.dims = 2 * static_cast<int>(frequencies.size());
  rope.inverse_frequency = frequencies;
  rope.attention_factor = sigma;
  return rope;
}

/// [1, positions, 2 * bands]: complex keys rotated at their positions, as a cache holds them.
at::Tensor rotated(const std::vector<std::vector<std::complex<double>>>& keys,
                   const std::vector<int>& positions, const RopeParameters& rope) {
  const std::size_t bands = rope.inverse_frequency.size();
  at::Tensor cache = at::zeros({1, static_cast<std::int64_t>(keys.size()), rope.dims}, at::kFloat);
  for (std::size_t slot = 0; slot < keys.size(); ++slot) {
    for (std::size_t band = 0; band < bands; ++band) {
      const std::complex<double> turned =
          keys[slot][band] * rope.attention_factor *
          std::polar(1.0, rope.inverse_frequency[band] * positions[slot]);
      cache[0][static_cast<std::int64_t>(slot)][static_cast<std::int64_t>(band)] = turned.real();
      cache[0][static_cast<std::int64_t>(slot)][static_cast<std::int64_t>(bands + band)] =
          turned.imag();
    }
  }
  return cache;
}

float at(const at::Tensor& tensor, std::int64_t row, std::int64_t column) {
  return tensor[row][column].item<float>();
}

/// The worked example: two bands, one head, three keys; offsets 1, 2, 4.
class WorkedExample : public ::testing::Test {
 protected:
  RopeParameters rope_ = rope_of({1.0, 0.1});
  at::Tensor keys_ =
      rotated({{{1, 1}, {1, 0}}, {{0, 1}, {0, 1}}, {{2, 0}, {0, -1}}}, {0, 3, 5}, rope_);
  QueryCentres centres_{at::tensor({1.0f, 0.0f}).view({1, 2}),
                        at::tensor({0.0f, 2.0f}).view({1, 2}),
                        at::tensor({1.25f, 2.0f}).view({1, 2})};
  TriTerms terms(const FutureOffsets& offsets) const {
    return detail::triattention_terms(keys_, centres_, rope_, offsets, 6, true);
  }
};

TEST_F(WorkedExample, Terms) {
  const TriTerms mean = terms({3, false});
  const float expected[] = {-1.178145f, 1.356077f, -2.623642f};
  const float norm[] = {0.353553f, 0.25f, 0.5f};
  for (int slot = 0; slot < 3; ++slot) {
    EXPECT_NEAR(at(mean.trigonometric, 0, slot), expected[slot], 2e-6);
    EXPECT_NEAR(at(mean.norm, 0, slot), norm[slot], 2e-6);
  }
  const TriTerms best = terms({3, true});
  EXPECT_NEAR(at(best.trigonometric, 0, 0), 0.122453f, 2e-6);
  EXPECT_NEAR(at(best.trigonometric, 0, 1), 2.186671f, 2e-6);
  EXPECT_NEAR(at(best.trigonometric, 0, 2), -1.187841f, 2e-6);
}

TEST_F(WorkedExample, ZScoresOfBothPaths) {
  const Protection nothing(3);
  const float population[] = {-0.244014f, 1.328383f, -1.084369f};
  const float sample[] = {-0.199237f, 1.084620f, -0.885383f};
  for (const Mode mode : {Mode::per_head, Mode::per_layer_perhead, Mode::union_}) {
    TriSettling settling;
    settling.mode = mode;
    const auto ours =
        detail::settle_triattention({terms({3, false})}, settling, {1, nothing, {}, true});
    settling.sample = true;
    const auto theirs =
        detail::settle_triattention({terms({3, false})}, settling, {1, nothing, {}, false});
    for (int slot = 0; slot < 3; ++slot) {
      EXPECT_NEAR(at(ours[0].scores, 0, slot), population[slot], 3e-6);
      EXPECT_NEAR(at(theirs[0].scores, 0, slot), sample[slot], 3e-6);
      EXPECT_NEAR(ours[0].terms.sum(0)[0][slot].item<float>(), population[slot], 3e-6);
    }
  }
}

TEST_F(WorkedExample, ProtectedSlotsDoNotCompete) {
  Protection first(3);
  first.add(0, 1, Reason::rule);
  const auto scores = detail::settle_triattention({terms({3, false})}, {}, {1, first, {}, false});
  EXPECT_TRUE(std::isnan(at(scores[0].scores, 0, 0)));
  EXPECT_NEAR(at(scores[0].scores, 0, 1), 1.0f, 1e-6);  // of two, one is above and one below
  EXPECT_NEAR(at(scores[0].scores, 0, 2), -1.0f, 1e-6);
}

/// Keys, and centres whose queries were all one vector.
struct OneQuery {
  RopeParameters rope = rope_of({1.0, 0.3, 0.02}, 1.5);
  std::vector<std::complex<double>> query = {{0.5, -1.0}, {2.0, 0.25}, {-0.75, 1.5}};
  std::vector<std::vector<std::complex<double>>> keys = {{{1, 2}, {-1, 0.5}, {0.25, 1}},
                                                         {{-2, 1}, {0.5, 0.5}, {1, -1}}};
  std::vector<int> positions = {4, 9};
  QueryCentres centres() const {
    QueryCentres centres{at::zeros({1, 3}), at::zeros({1, 3}), at::zeros({1, 3})};
    for (int band = 0; band < 3; ++band) {
      centres.real[0][band] = query[static_cast<std::size_t>(band)].real();
      centres.imaginary[0][band] = query[static_cast<std::size_t>(band)].imag();
      centres.absolute[0][band] = std::abs(query[static_cast<std::size_t>(band)]);
    }
    return centres;
  }
};

TEST(TriAttention, OfOneQueryItIsTheTrueLogit) {
  const OneQuery one;
  const int next = 12;
  const TriTerms terms = detail::triattention_terms(
      rotated(one.keys, one.positions, one.rope), one.centres(), one.rope, {1, false}, next, true);
  const at::Tensor query = rotated({one.query}, {next + 1}, one.rope);
  for (int slot = 0; slot < 2; ++slot) {
    const at::Tensor key = rotated(one.keys, one.positions, one.rope)[0][slot];
    EXPECT_NEAR(at(terms.trigonometric, 0, slot), query[0][0].mul(key).sum().item<float>(), 1e-5);
    EXPECT_NEAR(at(terms.norm, 0, slot), 0.0f, 1e-6);
  }
}

TEST(TriAttention, MovingEverythingAlongChangesNothing) {
  const OneQuery one;
  const TriTerms here = detail::triattention_terms(rotated(one.keys, {4, 9}, one.rope),
                                                   one.centres(), one.rope, {}, 12, true);
  const TriTerms there = detail::triattention_terms(rotated(one.keys, {1004, 1009}, one.rope),
                                                    one.centres(), one.rope, {}, 1012, true);
  EXPECT_TRUE(at::allclose(here.trigonometric, there.trigonometric, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(here.norm, there.norm, 1e-6, 1e-6));
}

TEST(TriAttention, WithoutTheResultantTheNormTermIsWhole) {
  const OneQuery one;
  const at::Tensor keys = rotated(one.keys, one.positions, one.rope);
  const TriTerms terms =
      detail::triattention_terms(keys, one.centres(), one.rope, {}, 12, /*resultant=*/false);
  for (std::size_t slot = 0; slot < 2; ++slot) {
    double expected = 0;
    for (std::size_t band = 0; band < 3; ++band) {
      expected += std::pow(one.rope.attention_factor, 2) * std::abs(one.query[band]) *
                  std::abs(one.keys[slot][band]);
    }
    EXPECT_NEAR(at(terms.norm, 0, static_cast<std::int64_t>(slot)), expected, 1e-4);
  }
}

std::vector<TriTerms> random_terms(int layers, int heads, int slots) {
  std::uint32_t state = 5;
  const auto draw = [&] {
    at::Tensor numbers = at::zeros({heads, slots});
    for (std::int64_t cell = 0; cell < numbers.numel(); ++cell) {
      state = state * 1664525u + 1013904223u;
      numbers.view({-1})[cell] = state / 4294967296.0;
    }
    return numbers;
  };
  std::vector<TriTerms> all;
  for (int layer = 0; layer < layers; ++layer) {
    const at::Tensor trigonometric = draw();
    all.push_back({trigonometric, draw()});
  }
  return all;
}

TEST(TriAttention, ScalingAHeadsQueriesChangesNoScore) {
  const Protection nothing(9);
  std::vector<TriTerms> terms = random_terms(2, 4, 9);
  const auto before = detail::settle_triattention(terms, {}, {2, nothing, {}, false});
  terms[1].trigonometric[2].mul_(7.5);
  terms[1].norm[2].mul_(7.5);
  const auto after = detail::settle_triattention(terms, {}, {2, nothing, {}, false});
  EXPECT_TRUE(at::allclose(before[0].scores, after[0].scores, 1e-5, 1e-5));
}

TEST(TriAttention, OneLayerAndOneHeadPerGroupMakesAllModesOne) {
  const Protection nothing(9);
  const std::vector<TriTerms> terms = random_terms(1, 1, 9);
  TriSettling settling;
  settling.mode = Mode::per_head;
  const auto per_head = detail::settle_triattention(terms, settling, {1, nothing, {}, false});
  settling.mode = Mode::per_layer_perhead;
  const auto per_layer = detail::settle_triattention(terms, settling, {1, nothing, {}, false});
  settling.mode = Mode::union_;
  const auto in_union = detail::settle_triattention(terms, settling, {1, nothing, {}, false});
  EXPECT_TRUE(per_head[0].scores.equal(per_layer[0].scores));
  EXPECT_TRUE(per_head[0].scores.equal(in_union[0].scores));
}

TEST(TriAttention, PerHeadGivesEveryLayerTheSame) {
  const Protection nothing(9);
  const auto scores =
      detail::settle_triattention(random_terms(3, 4, 9), {}, {2, nothing, {}, true});
  EXPECT_TRUE(scores[0].scores.equal(scores[2].scores));
  EXPECT_FALSE(scores[0].scores[0].equal(scores[0].scores[1]));
  EXPECT_TRUE(at::allclose(scores[1].terms.sum(0), scores[1].scores, 1e-5, 1e-5));
}

TEST(TriAttention, EqualScoresAreNotDividedByZero) {
  const Protection nothing(4);
  const std::vector<TriTerms> flat = {{at::ones({2, 4}), at::ones({2, 4})}};
  for (const bool sample : {false, true}) {
    TriSettling settling;
    settling.sample = sample;
    const auto scores = detail::settle_triattention(flat, settling, {2, nothing, {}, false});
    EXPECT_EQ(scores[0].scores.abs().max().item<float>(), 0.0f);
  }
}

TEST(TriAttention, LayersThatHoldDifferentTokensCannotShare) {
  const Protection nothing(3);
  SlotTable here = SlotTable::full(2, 3);
  SlotTable there = here;
  there.token[1] = 7;
  const std::vector<SlotTable> tables = {here, there};
  TriSettling settling;
  EXPECT_THROW(
      detail::settle_triattention(random_terms(2, 2, 3), settling, {2, nothing, tables, false}),
      Error);
  settling.mode = Mode::per_layer_perhead;
  EXPECT_NO_THROW(
      detail::settle_triattention(random_terms(2, 2, 3), settling, {2, nothing, tables, false}));
}

}  // namespace
}  // namespace kvscope::testing
