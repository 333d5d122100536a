#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <optional>

#include "attached_model.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope::test {
namespace {

constexpr int planned = 300;

nlohmann::json request_of(const std::string& path, const Model& model, bool live) {
  nlohmann::json request = request_for(path, model.shape(), "qkv", planned);
  request["live"] = live;
  return request;
}

/// A prompt of 40 tokens and `count` steps; returns how the capture stands after each.
std::vector<std::int64_t> run(const Operators& operators, const Model& model, int count) {
  std::vector<std::int64_t> status;
  const auto pass = [&](int first, int rows) {
    operators.begin_pass(std::vector<std::int32_t>(static_cast<std::size_t>(rows), 3), first);
    for (int layer = 0; layer < 2; ++layer) {
      SeenAttention seen;
      seen.layer = layer;
      seen.query = at::ones({1, 4, rows, 8});
      seen.key = seen.value = at::ones({1, 2, first + rows, 8});
      seen.scale = model.shape().attention_scale;
      seen.mask = built_mask(first, rows, 0, first + rows, 0);
      operators.attention(seen);
    }
    operators.end_pass(at::zeros({1, 40}));
    status.push_back(operators.status());
  };
  pass(0, 40);
  for (int step = 0; step < count; ++step) {
    pass(40 + step, 1);
  }
  return status;
}

/// While it lives, files of this process may have so many bytes. No child: threads do not survive a
/// fork.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit size{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &size);
  }
  ~SmallDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_{};
};

/// Runs a capture on a disk of `bytes` to its end; returns what the close says.
std::string run_on_a_small_disk(const std::string& path, bool live, rlim_t bytes) {
  const auto model = attached_model(false, 0);
  const SmallDisk disk(bytes);
  const Operators operators(request_of(path, *model, live), output_weights_of(*model));
  const std::vector<std::int64_t> status = run(operators, *model, planned);
  EXPECT_EQ(status.size(), planned + 1u) << "the run goes on";
  EXPECT_EQ(std::count(status.begin(), status.end(), 1), 0) << "nothing was refused";
  return operators.close().at("error");
}

TEST(Faults, AFullDiskEndsTheCaptureAndNotTheRun) {
  const CaptureFolder folder;
  ASSERT_EQ(run_on_a_small_disk(folder / "whole.capture.h5", true, rlim_t{1} << 30), "");
  const auto whole = std::filesystem::file_size(folder / "whole.capture.h5");
  int full = 0;
  for (const int percent : {60, 75, 90, 97}) {
    const std::string path = folder / ("x" + std::to_string(percent) + ".capture.h5");
    EXPECT_NE(run_on_a_small_disk(path, true, whole * static_cast<rlim_t>(percent) / 100), "");
    const CaptureReader reader(path);
    EXPECT_EQ(reader.index().state, static_cast<int>(CaptureState::disk_full)) << percent;
    EXPECT_LT(reader.index().steps, planned);
    full += reader.index().steps > 0 ? 1 : 0;
  }
  EXPECT_GT(full, 0) << "what was committed is there";
  const std::string batch = folder / "batch.capture.h5";
  ASSERT_EQ(run_on_a_small_disk(batch, false, rlim_t{1} << 30), "");
  const auto size = std::filesystem::file_size(batch);
  std::filesystem::remove(batch);
  EXPECT_NE(run_on_a_small_disk(batch, false, size / 2), "");
  EXPECT_FALSE(std::filesystem::exists(batch));
}

TEST(Faults, AFileIsFollowedWhileTheRunGoesOn) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const std::string path = folder / "x.capture.h5";
  const Operators operators(request_of(path, *model, true), output_weights_of(*model));
  run(operators, *model, 150);
  for (int wait = 0; wait < 400 && commit_mark(path).value_or(CommitMark{}).steps < 128; ++wait) {
    usleep(10000);
  }
  const CaptureReader reader(path);
  EXPECT_TRUE(being_written(path));
  EXPECT_EQ(reader.index().state, static_cast<int>(CaptureState::decode));
  EXPECT_GE(reader.index().steps, 128);
  EXPECT_EQ(operators.close().at("error"), "");
  EXPECT_EQ(CaptureReader(path).index().steps, 150);
}

TEST(Faults, AnExceptionOfTheRunEndsItsCapture) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  for (const bool live : {false, true}) {
    const std::string path = folder / (live ? "live.capture.h5" : "batch.capture.h5");
    const Operators operators(request_of(path, *model, live), output_weights_of(*model));
    run(operators, *model, 3);
    const nlohmann::json report = operators.close(6, "ValueError: out of luck");
    EXPECT_EQ(report.at("error"), "");
    EXPECT_EQ(report.at("path"), live ? path : "");
    EXPECT_EQ(std::filesystem::exists(path), live);
    if (live) {
      const CaptureReader reader(path);
      EXPECT_EQ(reader.index().state, static_cast<int>(CaptureState::error));
      EXPECT_EQ(reader.index().message, "ValueError: out of luck");
      EXPECT_EQ(reader.index().steps, 3);
    }
  }
}

TEST(Faults, ARunWithoutAPassSaysSo) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const Operators operators(request_of(folder / "x.capture.h5", *model, false),
                            output_weights_of(*model));
  EXPECT_NE(operators.close().at("error").get<std::string>().find("the model was not run"),
            std::string::npos);
  EXPECT_NE(operators.close().at("error").get<std::string>().find("closed"), std::string::npos);
}

TEST(Faults, TwoCapturesInOneProcessDoNotMix) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const Operators a(request_of(folder / "a.capture.h5", *model, true), output_weights_of(*model));
  const Operators b(request_of(folder / "b.capture.h5", *model, false), output_weights_of(*model));
  run(a, *model, 2);
  run(b, *model, 5);
  EXPECT_EQ(a.close().at("steps"), 2);
  EXPECT_EQ(b.close().at("steps"), 5);
}

TEST(Faults, NumbersThatAreNotFiniteAreKeptAndNamed) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const Operators operators(request_of(folder / "x.capture.h5", *model, false),
                            output_weights_of(*model));
  operators.begin_pass({1, 2, 3}, 0);
  for (int layer = 0; layer < 2; ++layer) {
    SeenAttention seen;
    seen.layer = layer;
    seen.query = at::ones({1, 4, 3, 8});
    seen.key = seen.value = at::ones({1, 2, 3, 8}).div_(layer == 1 ? 0.0 : 1.0);
    seen.scale = model->shape().attention_scale;
    seen.mask = built_mask(0, 3, 0, 3, 0);
    operators.attention(seen);
  }
  operators.end_pass();
  const nlohmann::json report = operators.close();
  EXPECT_EQ(report.at("error"), "");
  std::string notes;
  for (const auto& note : report.at("notes")) {
    notes += note.get<std::string>() + "\n";
  }
  EXPECT_NE(notes.find("not finite, first in layer 1"), std::string::npos) << notes;
}

}  // namespace
}  // namespace kvscope::test
