#include "kvscope/model/block_type.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gguf.h"
#include "model_test_support.h"

namespace kvscope {
namespace {

using test::source_path;

/// tests/golden/blocks.py: every quantised type beside what the gguf package reads from it.
TEST(BlockTypes, AgreeWithTheReferencePackage) {
  const GgufFile file(source_path("tests/golden/blocks.gguf"));
  int types = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    const GgufTensor* expected = file.find(tensor.name + ".expected");
    if (expected == nullptr) {
      continue;
    }
    ++types;
    const BlockType* block = block_type(tensor.type);
    ASSERT_NE(block, nullptr) << tensor.name;
    EXPECT_EQ(tensor.name, block->name);
    ASSERT_EQ(tensor.elements, expected->elements);
    std::vector<float> values(static_cast<std::size_t>(tensor.elements));
    block->dequantise(file.data(tensor), tensor.elements / block->elements, values.data());
    std::vector<float> reference(values.size());
    std::memcpy(reference.data(), file.data(*expected), values.size() * sizeof(float));
    const auto elements = static_cast<std::size_t>(block->elements);
    for (std::size_t first = 0; first < values.size(); first += elements) {
      float largest = 0;
      for (std::size_t e = first; e < first + elements; ++e) {
        largest = std::max(largest, std::abs(reference[e]));
      }
      for (std::size_t e = first; e < first + elements; ++e) {
        ASSERT_NEAR(values[e], reference[e], largest * 2.4e-7f) << tensor.name << ", element " << e;
      }
    }
  }
  EXPECT_EQ(types, 24);
}

TEST(BlockTypes, EveryHalfIsItsValue) {
  const BlockType* half = block_type(1);
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto stored = static_cast<std::uint16_t>(bits);
    float value = 0;
    half->dequantise(reinterpret_cast<const std::uint8_t*>(&stored), 1, &value);
    const int exponent = static_cast<int>(bits >> 10) & 31;
    const int fraction = static_cast<int>(bits) & 1023;
    const double sign = (bits & 0x8000u) != 0 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), fraction != 0);
      EXPECT_TRUE(fraction != 0 || std::isinf(value));
      EXPECT_EQ(std::signbit(value), sign < 0);
      continue;
    }
    const double expected =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    ASSERT_EQ(static_cast<double>(value), sign * expected) << bits;
    ASSERT_EQ(std::signbit(value), sign < 0) << bits;
  }
}

template <typename T>
void expect_plain(std::uint32_t type, std::vector<T> stored, std::vector<float> expected) {
  const BlockType* block = block_type(type);
  ASSERT_NE(block, nullptr);
  ASSERT_EQ(block->bytes, static_cast<int>(sizeof(T)));
  std::vector<float> values(stored.size());
  block->dequantise(reinterpret_cast<const std::uint8_t*>(stored.data()),
                    static_cast<std::int64_t>(stored.size()), values.data());
  EXPECT_EQ(values, expected) << block->name;
}

TEST(BlockTypes, PlainNumbersAreThemselves) {
  expect_plain<float>(0, {1.5f, -0.0f, 1e-40f}, {1.5f, -0.0f, 1e-40f});
  expect_plain<std::int8_t>(24, {-128, 0, 127}, {-128, 0, 127});
  expect_plain<std::int16_t>(25, {-32768, 12345}, {-32768, 12345});
  expect_plain<std::int32_t>(26, {-7, 1 << 30}, {-7, 1073741824.0f});
  expect_plain<std::int64_t>(27, {-9, std::int64_t{1} << 40}, {-9, 1099511627776.0f});
  expect_plain<double>(28, {0.1, -1e300}, {0.1f, -std::numeric_limits<float>::infinity()});
  expect_plain<std::uint16_t>(30, {0x3FC0, 0xC000, 0x0001}, {1.5f, -2.0f, 9.1835e-41f});
}

TEST(BlockTypes, UnknownTypesAreNull) {
  for (const std::uint32_t type : {4u, 5u, 9u, 15u, 31u, 38u, 200u, 0xFFFFFFFFu}) {
    EXPECT_EQ(block_type(type), nullptr) << type;
  }
}

/// A block by hand: Q4_0 with d = 2, first byte 0x1F.
TEST(BlockTypes, FourBitsByHand) {
  std::uint8_t block[18] = {0x00, 0x40, 0x1F};
  float values[32];
  block_type(2)->dequantise(block, 1, values);
  EXPECT_EQ(values[0], 14.0f);    // (15 - 8) * 2
  EXPECT_EQ(values[16], -14.0f);  // (1 - 8) * 2
  EXPECT_EQ(values[1], -16.0f);
}

}  // namespace
}  // namespace kvscope
