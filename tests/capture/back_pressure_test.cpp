#include "back_pressure.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <utility>

#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "recorded_run.h"
#include "writer_thread.h"

namespace kvscope::test {
namespace {

using detail::BackPressure;
using detail::class_of;
using detail::WriteClass;
using detail::WriterPolicy;
using detail::WriterThread;

constexpr int planned_steps = 120;
constexpr std::int64_t row_bytes = 2 * 4 * 4;  ///< of a series [2 layers, 4 query heads] float32

TEST(BackPressure, FactsSeriesAndBulk) {
  EXPECT_EQ(class_of("steps/token"), WriteClass::fact);
  EXPECT_EQ(class_of("steps/stall_ns"), WriteClass::fact);
  EXPECT_EQ(class_of("reduce/attention_sum"), WriteClass::fact) << "decisions are made from it";
  EXPECT_EQ(class_of("steps/entropy"), WriteClass::series);
  EXPECT_EQ(class_of("steps/top_key"), WriteClass::series);
  EXPECT_EQ(class_of("steps/keys"), WriteClass::bulk);
  EXPECT_EQ(class_of("layers/003/keys"), WriteClass::bulk);
  EXPECT_EQ(class_of("steps/residual_out"), WriteClass::bulk);
}

TEST(BackPressure, TheStrideDoublesOnceAStepAndHalvesWhenTheQueueIsEmpty) {
  BackPressure pressure;
  EXPECT_FALSE(pressure.skips(7, false));
  pressure.widen(7);
  pressure.widen(7);
  EXPECT_EQ(pressure.stride(), 2);
  EXPECT_FALSE(pressure.skips(8, false));
  EXPECT_TRUE(pressure.skips(9, true));
  pressure.widen(10);
  EXPECT_EQ(pressure.stride(), 4);
  EXPECT_TRUE(pressure.skips(14, true));
  for (int step = 11; step < 44; ++step) {
    pressure.skips(step, true);
  }
  EXPECT_EQ(pressure.stride(), 4) << "not before eight written steps";
  EXPECT_FALSE(pressure.skips(44, true));
  EXPECT_EQ(pressure.stride(), 2);
  pressure.note("steps/lse", 9, 100, 2);
  pressure.note("steps/lse", 11, 100, 2);
  pressure.note("layers/005/keys", 0, 50, 1);
  const std::vector<DroppedRange> ranges = pressure.take();
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0].layer, 5);
  EXPECT_EQ(dropped_text(ranges[1]),
            "steps/lse: steps 9 to 11, one of 2 written, 200 bytes left out");
  EXPECT_TRUE(pressure.take().empty());
  EXPECT_EQ(pressure.dropped_bytes(), 250);
}

/// A capture of decode steps alone, whose writer takes two milliseconds for each write unless the
/// policy says more.
struct SlowRun {
  std::int64_t dropped_bytes = 0;
  std::int64_t stall_ns = 0;
};

SlowRun write_slowly(const std::string& path, bool live, WriterPolicy policy) {
  const auto model = fake_model();
  const TokenTable prompt = fake_prompt(9);
  CaptureRequest request;
  request.profile = Profile::qkv;
  request.windows = {4};
  request.layers = {0, 1};
  request.new_tokens = planned_steps;
  CaptureIndex index = index_for(*model, prompt, request);
  index.layers = {0, 1};
  CaptureWriter writer(path, index, prompt,
                       capture_datasets(request, index.shape, 9, ElementType::f4),
                       {false, false, live});
  if (!policy.before_write) {
    policy.before_write = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  }
  WriterThread thread(writer, policy);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string name = "layers/00" + std::to_string(layer) + "/keys";
    thread.put(name, {0, 0, 0}, {2, 9, 8}, at::full({2, 9, 8}, 1.0, at::kFloat));
  }
  for (int step = 1; step <= planned_steps; ++step) {
    const std::int64_t row = step - 1;
    const auto value = static_cast<double>(step);
    thread.put("steps/entropy", {row, 0, 0}, {1, 2, 4}, at::full({1, 2, 4}, value, at::kFloat));
    thread.put("steps/lse", {row, 0, 0}, {1, 2, 4}, at::full({1, 2, 4}, value, at::kFloat));
    thread.put("steps/token", {row}, {1}, at::full({1}, step, at::kInt));
    thread.then([step](CaptureWriter& file) { file.append_token(step, 8 + step, "x"); });
    if (step % 32 == 0) {
      thread.list_dropped();
      thread.then([step](CaptureWriter& file) { file.commit(step); });
    }
  }
  thread.list_dropped();
  thread.drain();
  writer.finish(planned_steps);
  return {thread.dropped_bytes(), thread.stall_ns()};
}

/// Every row is there whole, or missing whole and listed.
void expect_all_accounted_for(const std::string& path, std::int64_t dropped_bytes) {
  const CaptureReader reader(path);
  EXPECT_EQ(reader.index().steps, planned_steps);
  std::int64_t listed = 0;
  for (const std::string name : {"steps/entropy", "steps/lse"}) {
    std::vector<float> rows(std::size_t{8} * planned_steps);
    reader.read(name, {0, 0, 0}, {planned_steps, 2, 4}, std::span<float>(rows));
    std::int64_t missing = 0;
    for (int step = 1; step <= planned_steps; ++step) {
      const float* row = rows.data() + std::size_t{8} * static_cast<std::size_t>(step - 1);
      const bool gone = std::isnan(row[0]);
      missing += gone ? 1 : 0;
      bool in_a_range = false;
      for (const DroppedRange& range : reader.dropped()) {
        in_a_range = in_a_range || (range.dataset == name && range.reason > 1 &&
                                    range.first_step <= step && step <= range.last_step);
      }
      EXPECT_TRUE(!gone || in_a_range) << name << ", step " << step << " is missing in silence";
      for (int cell = 0; !gone && cell < 8; ++cell) {
        EXPECT_EQ(row[cell], static_cast<float>(step)) << name;
      }
    }
    std::int64_t bytes = 0;
    for (const DroppedRange& range : reader.dropped()) {
      bytes += range.dataset == name ? range.bytes : 0;
    }
    EXPECT_EQ(bytes, missing * row_bytes) << name;
    listed += bytes;
  }
  for (const DroppedRange& range : reader.dropped()) {
    listed += range.reason == 1 ? range.bytes : 0;
  }
  EXPECT_EQ(listed, dropped_bytes);
  std::vector<std::int32_t> tokens(planned_steps);
  reader.read("steps/token", {0}, {planned_steps}, std::span<std::int32_t>(tokens));
  for (int step = 1; step <= planned_steps; ++step) {
    EXPECT_EQ(tokens[static_cast<std::size_t>(step - 1)], step) << "facts are never dropped";
  }
}

TEST(SlowWriter, SeriesAreThinnedOutAndListed) {
  for (const bool live : {false, true}) {
    const CaptureFolder folder;
    const std::string path = folder / "x.capture.h5";
    WriterPolicy policy;
    policy.queue_bytes = 4 * row_bytes;
    policy.patience = std::chrono::milliseconds(0);
    const SlowRun run = write_slowly(path, live, policy);
    EXPECT_GT(run.dropped_bytes, 0);
    expect_all_accounted_for(path, run.dropped_bytes);
    std::vector<float> keys(2 * 9 * 8);
    CaptureReader(path).read("layers/001/keys", {0, 0, 0}, {2, 9, 8}, std::span<float>(keys));
    EXPECT_EQ(keys, std::vector<float>(2 * 9 * 8, 1.0f)) << "bulk waits unless told otherwise";
  }
}

TEST(SlowWriter, NeverDropWaits) {
  const CaptureFolder folder;
  const std::string path = folder / "x.capture.h5";
  WriterPolicy policy;
  policy.queue_bytes = 4 * row_bytes;
  policy.patience = std::chrono::milliseconds(0);
  policy.never_drop = true;
  const SlowRun run = write_slowly(path, false, policy);
  EXPECT_EQ(run.dropped_bytes, 0);
  EXPECT_GT(run.stall_ns, 10'000'000);
  expect_all_accounted_for(path, 0);
  EXPECT_TRUE(CaptureReader(path).dropped().empty());
}

TEST(SlowWriter, PatienceIsEnoughForAShortStall) {
  const CaptureFolder folder;
  const std::string path = folder / "x.capture.h5";
  WriterPolicy policy;
  policy.queue_bytes = 4 * row_bytes;
  policy.patience = std::chrono::milliseconds(20000);
  EXPECT_EQ(write_slowly(path, false, policy).dropped_bytes, 0);
}

TEST(SlowWriter, BulkIsLeftOutWhereToldSo) {
  const CaptureFolder folder;
  const std::string path = folder / "x.capture.h5";
  WriterPolicy policy;
  policy.queue_bytes = 2 * 9 * 8 * 4;  // one layer's keys
  policy.never_drop = true;
  policy.drop_bulk = true;
  policy.before_write = [first = true]() mutable {  // the disk stalls once, at the beginning
    std::this_thread::sleep_for(std::chrono::milliseconds(std::exchange(first, false) ? 400 : 0));
  };
  const SlowRun run = write_slowly(path, false, policy);
  EXPECT_EQ(run.dropped_bytes, 2 * 9 * 8 * 4);
  const CaptureReader reader(path);
  ASSERT_EQ(reader.dropped().size(), 1u);
  const DroppedRange& range = reader.dropped()[0];
  EXPECT_EQ(range.dataset, "layers/001/keys");
  EXPECT_EQ(range.layer, 1);
  EXPECT_EQ(range.first_step, 0);
  EXPECT_EQ(range.reason, 1);
  expect_all_accounted_for(path, run.dropped_bytes);
}

}  // namespace
}  // namespace kvscope::test
