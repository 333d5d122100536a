#include "weight_matrix.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "block_dot.h"
#include "block_loop.h"
#include "instruction_set.h"
#include "test_support.h"
#include "weight_memory.h"

namespace kvscope::detail {
namespace {

using Blocks = WeightMatrix::Blocks;
using test::worst;

/// The bytes that hold float16 scales in a block of each type; the others may be anything.
std::vector<int> scale_places(const std::string& type) {
  if (type == "Q4_K") {
    return {0, 2};
  }
  if (type == "Q6_K") {
    return {208};
  }
  return type == "Q4_1" || type == "Q5_1" ? std::vector<int>{0, 2} : std::vector<int>{0};
}

/// Random rows of a stored type; scales between 1/64 and 1/8 in size.
Blocks random_blocks(const char* name, std::uint32_t id, std::int64_t rows, std::int64_t columns,
                     unsigned seed) {
  const BlockType* type = block_type(id);
  EXPECT_STREQ(type->name, name);
  const std::int64_t blocks = rows * columns / type->elements;
  const auto size = static_cast<std::size_t>(blocks * type->bytes);
  const auto bytes = WeightMemory().take(size);
  const Blocks part{type, rows, bytes};
  std::mt19937 random(seed);
  if (type->elements == 1) {  // plain numbers of either sign near one
    for (std::int64_t element = 0; element < blocks; ++element) {
      const std::uint32_t bits = (random() & 0x80ffffffu) | 0x3f000000u;
      const std::uint16_t half = static_cast<std::uint16_t>((random() & 0x83ffu) | 0x3800u);
      const std::uint16_t bfloat = static_cast<std::uint16_t>(bits >> 16);
      std::uint8_t* to = bytes.get() + element * type->bytes;
      if (type->bytes == 4) {
        std::memcpy(to, &bits, 4);
      } else {
        std::memcpy(to, std::string_view(name) == "F16" ? &half : &bfloat, 2);
      }
    }
    return part;
  }
  std::generate_n(bytes.get(), size, [&] { return static_cast<std::uint8_t>(random()); });
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (const int place : scale_places(name)) {
      const auto scale = static_cast<std::uint16_t>((random() & 0x83ffu) | (9 + random() % 3) << 10);
      std::memcpy(bytes.get() + block * type->bytes + place, &scale, sizeof(scale));
    }
  }
  return part;
}

at::Tensor dequantised(const Blocks& part, std::int64_t columns) {
  at::Tensor values = at::zeros({part.rows, columns}, at::kFloat);
  part.type->dequantise(part.bytes.get(), part.rows * columns / part.type->elements,
                        values.mutable_data_ptr<float>());
  return values;
}

struct Stored {
  const char* name;
  std::uint32_t id;
  bool loop;  ///< has a loop of its own on machines with AVX2 or AVX-512
};
constexpr Stored types[] = {{"F32", 0, true},   {"F16", 1, true},   {"Q4_0", 2, true},
                            {"Q4_1", 3, true},  {"Q5_0", 6, true},  {"Q5_1", 7, false},
                            {"Q8_0", 8, true},  {"Q4_K", 12, true}, {"Q6_K", 14, true},
                            {"BF16", 30, true}, {"IQ4_NL", 20, false}};

TEST(WeightMatrix, EveryTypeMultipliesWithItsDequantisedWeights) {
  at::manual_seed(5);
  constexpr std::int64_t columns = 512;
  for (const Stored& stored : types) {
    for (const std::int64_t rows : {1, 7, 64}) {  // with and without rows left over
      Blocks part = random_blocks(stored.name, stored.id, rows, columns, 11);
      const at::Tensor values = dequantised(part, columns).to(at::kDouble);
      const at::Tensor x = at::randn({columns}, at::kFloat);
      at::Tensor out = at::zeros({rows}, at::kFloat);
      WeightMatrix({std::move(part)}, columns, at::kFloat).times(x, out);
      const at::Tensor exact = at::matmul(values, x.to(at::kDouble));
      // Rounding of a sum of float32 products; a wrong weight or scale is thousands of times more.
      const at::Tensor size = at::matmul(values.abs(), x.to(at::kDouble).abs());
      const double error = out.to(at::kDouble).sub(exact).abs().div(size).max().item<double>();
      EXPECT_LT(error, 2e-6) << stored.name << ", " << rows << " rows";
    }
  }
}

/// The loops of every instruction set that this processor has.
std::vector<std::span<const BlockLoop>> loops_here() {
  std::vector<std::span<const BlockLoop>> sets;
#if defined(__x86_64__)
  if (has_avx2() && __builtin_cpu_supports("f16c")) {
    sets.push_back(block_loops_avx2());
  }
  if (has_avx512()) {
    sets.push_back(block_loops_avx512());
  }
#endif
  return sets;
}

TEST(WeightMatrix, LoopsOfEveryInstructionSetAgreeWithTheDequantiser) {
  const auto sets = loops_here();
  at::manual_seed(6);
  constexpr std::int64_t columns = 768;
  constexpr std::int64_t rows = 7;
  for (const Stored& stored : types) {
    const Blocks part = random_blocks(stored.name, stored.id, rows, columns, 12);
    const at::Tensor values = dequantised(part, columns).to(at::kDouble);
    const at::Tensor x = at::randn({columns}, at::kFloat);
    const at::Tensor exact = at::matmul(values, x.to(at::kDouble));
    const at::Tensor size = at::matmul(values.abs(), x.to(at::kDouble).abs());
    for (const auto& set : sets) {
      const auto loop = std::find_if(set.begin(), set.end(), [&](const BlockLoop& candidate) {
        return std::string_view(candidate.type) == stored.name;
      });
      ASSERT_EQ(loop != set.end(), stored.loop) << stored.name;
      if (loop != set.end()) {
        at::Tensor out = at::zeros({rows}, at::kFloat);
        loop->dot(part.bytes.get(), x.const_data_ptr<float>(), rows, columns,
                  out.mutable_data_ptr<float>());
        const double error = out.to(at::kDouble).sub(exact).abs().div(size).max().item<double>();
        EXPECT_LT(error, 2e-6) << stored.name;
      }
    }
    EXPECT_EQ(block_dot(*block_type(stored.id), columns) != nullptr, stored.loop && !sets.empty())
        << stored.name;
    EXPECT_EQ(block_dot(*block_type(stored.id), 500), nullptr) << stored.name;
  }
}

/// Two types below one another, more rows than a tile has.
WeightMatrix two_parts(std::int64_t columns, at::ScalarType dtype, at::Tensor& values) {
  Blocks upper = random_blocks("Q4_1", 3, 700, columns, 1);
  Blocks lower = random_blocks("Q8_0", 8, 90, columns, 2);
  values = at::cat({dequantised(upper, columns), dequantised(lower, columns)}).to(dtype);
  std::vector<Blocks> parts;
  parts.push_back(std::move(upper));
  parts.push_back(std::move(lower));
  return {std::move(parts), columns, dtype};
}

TEST(WeightMatrix, KeptBlocksAreTheDenseMatrix) {
  at::manual_seed(6);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    at::Tensor values;
    const WeightMatrix matrix = two_parts(64, dtype, values);
    EXPECT_TRUE(matrix.kept());
    EXPECT_EQ(matrix.rows(), 790);
    EXPECT_EQ(matrix.columns(), 64);
    EXPECT_TRUE(at::equal(matrix.dense(), values));
    const std::vector<std::int32_t> ids = {789, 0, 700, 699, 0};
    const at::Tensor gathered = matrix.gather(ids);
    for (std::size_t row = 0; row < ids.size(); ++row) {
      EXPECT_TRUE(at::equal(gathered[static_cast<std::int64_t>(row)], values[ids[row]])) << row;
    }
    std::int64_t next = 0;
    matrix.tiles([&](std::int64_t first, const at::Tensor& tile) {
      EXPECT_EQ(first, next);
      EXPECT_TRUE(at::equal(tile, values.narrow(0, first, tile.size(0))));
      next += tile.size(0);
    });
    EXPECT_EQ(next, 790);
    const at::Tensor x = at::randn({5, 64}, at::kFloat).to(dtype);
    const at::Tensor expected = at::linear(x, values).to(at::kFloat);
    const double scale = expected.abs().max().item<double>();
    EXPECT_LT(worst(matrix.product(x).to(at::kFloat), expected),
              scale * (dtype == at::kFloat ? 1e-6 : 8e-3));
  }
}

TEST(WeightMatrix, DenseIsPassedThrough) {
  const at::Tensor values = at::randn({4, 3}, at::kFloat);
  const WeightMatrix matrix(values);
  EXPECT_FALSE(matrix.kept());
  EXPECT_TRUE(matrix.dense().is_same(values));
  int tiles = 0;
  matrix.tiles([&](std::int64_t first, const at::Tensor& tile) {
    EXPECT_EQ(first, 0);
    EXPECT_TRUE(tile.is_same(values));
    ++tiles;
  });
  EXPECT_EQ(tiles, 1);
  EXPECT_FALSE(WeightMatrix().defined());
}

TEST(WeightMemory, PiecesAreApartAlignedAndOutliveIt) {
  std::vector<std::shared_ptr<std::uint8_t>> pieces;
  at::Tensor tensor;
  {
    WeightMemory memory;
    for (const std::size_t size : {1u, 63u, 64u, 1u << 20, 80u << 20, 5u}) {
      pieces.push_back(memory.take(size));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pieces.back().get()) % 64, 0u);
      std::fill_n(pieces.back().get(), size, static_cast<std::uint8_t>(pieces.size()));
    }
    tensor = memory.tensor({3, 5}, at::kBFloat16).fill_(2);
  }
  for (std::size_t piece = 0; piece < pieces.size(); ++piece) {
    EXPECT_EQ(*pieces[piece], piece + 1);
  }
  EXPECT_EQ(tensor.sum().item<float>(), 30);
}

}  // namespace
}  // namespace kvscope::detail
