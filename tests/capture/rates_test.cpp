#include "kvscope/capture/rates.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvscope::test {
namespace {

TEST(Rates, WorkByHand) {
  ModelShape shape;
  shape.layers = 2;
  shape.query_heads = 4;
  shape.kv_heads = 1;
  shape.head_dim = 8;
  const RunWork work = work_of(shape, 1000, 300, 10, 4, 2);
  // Matrices: 2 * 1000 * 10; attention: 4 * (4 * 8) * (100 / 2) for each of two layers.
  EXPECT_DOUBLE_EQ(work.prompt_flop, 20000 + 2 * 4 * 32 * 50);
  // A step reads 1300 weights and 2 * 1 * 8 * 2 cache elements for each of 10 + 4 / 2 tokens.
  EXPECT_DOUBLE_EQ(work.step_bytes, 2 * (1300 + 32 * 12));
  CapturePrice price;
  price.extra_flop = 500;
  const CaptureTime time = estimate_time(work, price, {1000, 100});
  EXPECT_DOUBLE_EQ(time.prompt, 32.8);
  EXPECT_DOUBLE_EQ(time.statistics, 0.5);
  EXPECT_DOUBLE_EQ(time.decode, 4 * 2 * (1300 + 32 * 12) / 100.0);
  EXPECT_DOUBLE_EQ(time.total(), time.prompt + time.statistics + time.decode);
}

TEST(Rates, AreMeasured) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    const ComputeRates rates = measure_rates("cpu", dtype);
    // Any machine that runs this lies between a tenth of a GFLOP/s and a PFLOP/s.
    EXPECT_GT(rates.flop_per_second, 1e8) << dtype;
    EXPECT_LT(rates.flop_per_second, 1e15) << dtype;
    EXPECT_GT(rates.bytes_per_second, 1e7) << dtype;
    EXPECT_LT(rates.bytes_per_second, 1e13) << dtype;
  }
}

}  // namespace
}  // namespace kvscope::test
