#include "steps.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sin.h>

#include <cmath>

#include "test_support.h"

namespace kvscope::detail {
namespace {

using test::worst;

/// Reproducible numbers in about [-3, 3].
at::Tensor numbers(std::initializer_list<std::int64_t> sizes, double seed) {
  std::int64_t count = 1;
  for (const std::int64_t size : sizes) {
    count *= size;
  }
  return at::arange(count, at::kDouble).mul(0.7321 + seed).sin().mul(3).to(at::kFloat).view(sizes);
}

TEST(Steps, RmsNormByHand) {
  const at::Tensor x = at::ones({1, 4}).mul(2);  // mean square 4
  at::Tensor out = at::empty({1, 4});
  rms_norm(x, at::ones({4}).mul(3), 0, out);
  EXPECT_LT(worst(out, at::ones({1, 4}).mul(3)), 1e-6);
}

TEST(Steps, FusedLoopsEqualThePlainOperators) {
  for (const std::int64_t columns : {1, 7, 32, 80, 576}) {
    for (const std::int64_t rows : {1, 3, 65}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const double tolerance = type == at::kFloat ? 2e-6 : 0.04;  // two steps of bfloat16 at 3
        const at::Tensor x = numbers({rows, columns}, 0.1);
        const at::Tensor weight = numbers({columns}, 0.2);
        at::Tensor fused = at::empty({rows, columns}, type);
        at::Tensor plain = at::empty({rows, columns}, type);
        rms_norm(x, weight, 1e-5, fused);
        rms_norm(x, weight, 1e-5, plain, true);
        EXPECT_LT(worst(fused, plain), tolerance) << rows << "x" << columns;

        const at::Tensor gate_up = numbers({rows, 2 * columns}, 0.3).mul(4).to(type);
        for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
          activate(gate_up, activation, fused);
          activate(gate_up, activation, plain, true);
          EXPECT_LT(worst(fused, plain), type == at::kFloat ? 3e-5 : 1.0) << rows << "x" << columns;
        }

        at::Tensor heads = numbers({rows, 4 * columns}, 0.5).to(type);
        at::Tensor expected = heads.clone();
        norm_heads(heads, columns, 2, weight, 1e-5);
        norm_heads(expected, columns, 2, weight, 1e-5, true);
        EXPECT_LT(worst(heads, expected), tolerance) << rows << "x" << columns;
        const at::Tensor untouched = numbers({rows, 4 * columns}, 0.5).to(type);
        for (const std::int64_t first : {std::int64_t{0}, 3 * columns}) {
          EXPECT_TRUE(
              at::equal(heads.narrow(1, first, columns), untouched.narrow(1, first, columns)));
        }
      }
    }
  }
}

TEST(Steps, HeadsAreNormalisedOneByOne) {
  at::Tensor x = at::ones({1, 6});
  x.narrow(1, 2, 2).mul_(3);  // head 1: mean square 9
  x.narrow(1, 4, 2).mul_(5);
  norm_heads(x, 2, 1, at::ones({2}).mul(4), 0);
  EXPECT_NEAR(test::cell(x, {0, 0}), 1, 1e-6);
  EXPECT_NEAR(test::cell(x, {0, 2}), 4, 1e-6);
  EXPECT_NEAR(test::cell(x, {0, 5}), 5, 1e-6);
}

TEST(Steps, ActivationsByHand) {
  at::Tensor x = at::ones({1, 2});
  x.mutable_data_ptr<float>()[0] = -1.5f;
  at::Tensor out = at::empty({1, 2});
  activate(x, Activation::relu, out);  // no gate: as many columns in as out
  EXPECT_EQ(test::cell(out, {0, 0}), 0.0f);
  EXPECT_EQ(test::cell(out, {0, 1}), 1.0f);
  activate(x, Activation::gelu, out);
  EXPECT_NEAR(test::cell(out, {0, 0}), -1.5 * 0.5 * std::erfc(1.5 / std::sqrt(2.0)), 1e-6);
  at::Tensor one = at::empty({1, 1});
  activate(x, Activation::gelu_tanh, one);  // gate -1.5, up 1
  const double inner = std::sqrt(2.0 / M_PI) * (-1.5 + 0.044715 * -1.5 * 1.5 * 1.5);
  EXPECT_NEAR(test::cell(one, {0, 0}), -0.75 * (1 + std::tanh(inner)), 1e-6);
}

TEST(Steps, TheEmbeddingsScaleIsRoundedToItsType) {
  const std::vector<std::int32_t> ids = {1};
  const double scale = std::sqrt(640.0);  // 25.298...: 25.25 in bfloat16
  EXPECT_NEAR(test::cell(embed(WeightMatrix(at::ones({2, 1})), ids, scale), {0, 0}), 25.298221, 1e-5);
  EXPECT_EQ(test::cell(embed(WeightMatrix(at::ones({2, 1}, at::kBFloat16)), ids, scale), {0, 0}), 25.25f);
}

TEST(Steps, GrowingRotationsUseTheTableOfTheirOwnLength) {
  RopeParameters rope;
  rope.dims = 2;
  rope.inverse_frequency = {1.0};
  rope.growth = RopeGrowth::longrope;
  rope.original_context = 4;
  rope.long_inverse_frequency = {0.25};
  const std::vector<std::int32_t> positions = {2, 3, 4};
  const Rotation grows = rotation_of(rope, positions, at::kCPU);
  EXPECT_NEAR(test::cell(grows.cosine, {1, 0}), std::cos(3.0), 1e-6);
  EXPECT_NEAR(test::cell(grows.cosine, {2, 0}), std::cos(1.0), 1e-6);
  const Rotation long_prompt = rotation_of(rope, positions, at::kCPU, 5);
  EXPECT_NEAR(test::cell(long_prompt.cosine, {0, 0}), std::cos(0.5), 1e-6);
}

void expect_exact_products(std::int64_t count) {
  for (const std::int64_t columns : {1, 15, 32, 77, 576}) {
    for (const std::int64_t rows : {1, 4, 7, 130}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const at::Tensor weight = numbers({rows, columns}, 0.1).to(type);
        const at::Tensor x = numbers({count, columns}, 0.6).to(type);
        const at::Tensor bias = numbers({rows}, 0.7).to(type);
        const at::Tensor exact = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t());
        // Sums of terms up to 9 in float32, and the result's own rounding.
        const double largest = 3 + exact.abs().max().item<double>();
        const double tolerance =
            1e-6 * static_cast<double>(columns) + (type == at::kFloat ? 1e-7 : 0.008) * largest;
        const at::Tensor plain = multiply(x, WeightMatrix(weight), {});
        EXPECT_EQ(plain.scalar_type(), type);
        EXPECT_LT(worst(plain.to(at::kDouble), exact), tolerance) << rows << "x" << columns;
        const at::Tensor biased = multiply(x, WeightMatrix(weight), bias);
        EXPECT_LT(worst(biased.to(at::kDouble), exact.add(bias)), tolerance);
        at::Tensor hidden = at::ones({count, rows});
        add_product(x, WeightMatrix(weight), hidden);
        // One row is added as it was summed, several as rounded to their type.
        const bool rounded = type == at::kBFloat16 && count > 1;
        EXPECT_LT(worst(hidden.to(at::kDouble), exact.add(1)),
                  rounded ? tolerance : 1e-6 * static_cast<double>(columns) + 1e-6 * largest);
      }
    }
  }
}

TEST(Steps, OneRowsProductEqualsTheMatrixProduct) {
  expect_exact_products(1);
}

TEST(Steps, ProductsOfAnyNumberOfRowsAreExact) {
  for (const std::int64_t count : {2, 7, 8, 33}) {  // on both sides of where oneDNN comes in
    expect_exact_products(count);
  }
}

TEST(Steps, SwigluHasNoHolesAtTheEnds) {
  at::Tensor gate_up = at::ones({1, 12});
  const float gates[] = {-1e4f, -100.0f, -88.0f, 0.0f, 88.0f, 1e4f};
  std::copy(std::begin(gates), std::end(gates), gate_up.mutable_data_ptr<float>());
  at::Tensor out = at::empty({1, 6});
  activate(gate_up, Activation::silu, out);
  const float* value = out.const_data_ptr<float>();
  EXPECT_NEAR(value[0], 0, 1e-20);
  EXPECT_NEAR(value[1], 0, 1e-20);
  EXPECT_EQ(value[3], 0);
  EXPECT_EQ(value[4], 88.0f);
  EXPECT_EQ(value[5], 1e4f);
}

TEST(Steps, SplittingHeadsRotatesAndFillsTheCache) {
  ModelShape shape;
  shape.query_heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 10;
  shape.rope.dims = 6;  // four channels pass through
  shape.rope.inverse_frequency = {1.0, 0.3, 0.05};
  shape.rope.attention_factor = 1.5;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const double tolerance = type == at::kFloat ? 2e-6 : 0.04;
    const at::Tensor qkv = numbers({5, 80}, 0.4).to(type);
    const std::vector<std::int32_t> positions = {3, 4, 5, 9, 10};
    const Rotation rotation = rotation_of(shape.rope, positions, at::kCPU);
    LayerState fused(2, 10, 4, at::TensorOptions(type));
    LayerState plain(2, 10, 4, at::TensorOptions(type));
    at::Tensor fused_queries = at::empty({4, 5, 10});
    at::Tensor plain_queries = at::empty({4, 5, 10});
    fused.reserve(5);
    plain.reserve(5);
    split_heads(qkv, rotation, shape, fused, fused_queries);
    split_heads(qkv, rotation, shape, plain, plain_queries, true);
    fused.append(0, positions);
    plain.append(0, positions);
    EXPECT_LT(worst(fused_queries, plain_queries), tolerance);
    EXPECT_LT(worst(fused.keys(), plain.keys()), tolerance);
    EXPECT_TRUE(at::equal(fused.values(), plain.values()));
    EXPECT_EQ(fused.longest(), 5);

    // By hand: query head 1, row 0 (position 3), pair 1: channels 1 and 4, angle 0.9.
    const float first = test::cell(qkv, {0, 11});
    const float second = test::cell(qkv, {0, 14});
    EXPECT_NEAR(test::cell(fused_queries, {1, 0, 1}),
                1.5 * (first * std::cos(0.9) - second * std::sin(0.9)), 1e-5);
    EXPECT_NEAR(test::cell(fused_queries, {1, 0, 4}),
                1.5 * (second * std::cos(0.9) + first * std::sin(0.9)), 1e-5);
    EXPECT_EQ(test::cell(fused_queries, {1, 0, 7}), test::cell(qkv, {0, 17}));
    const at::Tensor back = rotate(fused_queries, rotation, true);
    const at::Tensor heads = qkv.narrow(1, 0, 40).view({5, 4, 10}).transpose(0, 1);
    EXPECT_LT(worst(back, heads.to(at::kFloat)), 2e-6);
  }
}

TEST(LayerState, GrowsDropsAndKeepsItsRows) {
  LayerState state(2, 3, 1, at::TensorOptions(at::kFloat));
  const std::vector<std::int32_t> positions = {7, 8};
  state.reserve(2);
  state.next_keys(0, 2).fill_(1);
  state.next_keys(1, 2).fill_(2);
  state.append(0, positions);
  state.reserve(200);
  EXPECT_EQ(test::cell(state.keys(), {1, 1, 2}), 2.0f);
  EXPECT_EQ(state.live_bytes(), 2 * 2 * 2 * 3 * 4);
  state.drop_newest(1);
  EXPECT_EQ(state.longest(), 1);
  EXPECT_EQ(state.slots().position[0], 7);
  EXPECT_EQ(state.next_keys(0, 5).abs().sum().item<float>(), 0.0f);
  EXPECT_FALSE(state.lengths().defined());
  EXPECT_FALSE(state.multiplicity().defined());
}

}  // namespace
}  // namespace kvscope::detail
