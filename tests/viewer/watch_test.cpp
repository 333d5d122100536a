#include "watch.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "../storage/sample_files.h"
#include "kvscope/core/error.h"

namespace kvscope::gui {
namespace {

/// The writer in a process of its own: does one thing for each byte it is sent, then answers.
class Writer {
 public:
  explicit Writer(const std::string& path) {
    EXPECT_EQ(pipe(orders_), 0);
    EXPECT_EQ(pipe(answers_), 0);
    child_ = fork();
    if (child_ == 0) {
      obey(path);
      _exit(0);
    }
    char byte = 0;
    EXPECT_EQ(read(answers_[0], &byte, 1), 1);
  }
  ~Writer() {
    int status = 0;
    waitpid(child_, &status, 0);
    EXPECT_EQ(status, 0);
  }
  /// 'w': three more steps, 'c': commits all, 'f': ends.
  void tell(char order) {
    EXPECT_EQ(write(orders_[1], &order, 1), 1);
    EXPECT_EQ(read(answers_[0], &order, 1), 1);
  }

 private:
  void obey(const std::string& path) {
    CaptureIndex index = test::sample_index();
    index.tokens = 6 + 12;
    std::vector<DatasetSpec> specs = test::sample_datasets();
    specs[0].shape[2] = 6 + 12;
    specs[2].shape[0] = specs[3].shape[0] = 12;
    CaptureWriter writer(path, index, test::sample_prompt(), specs, {false, false, true});
    int steps = 0;
    char order = 's';
    do {
      for (int count = 0; order == 'w' && count < 3; ++count, ++steps) {
        const std::vector<std::int32_t> token = {steps};
        writer.write("steps/token", {steps}, {1}, std::span<const std::int32_t>(token));
        writer.append_token(steps, 6 + steps, "x");
      }
      if (order == 'c') {
        writer.commit(steps);
      }
      if (order == 'f') {
        writer.finish(steps);
      }
      static_cast<void>(!write(answers_[1], &order, 1));
    } while (order != 'f' && read(orders_[0], &order, 1) == 1);
  }

  int orders_[2] = {};
  int answers_[2] = {};
  pid_t child_ = 0;
};

/// What the watch shows within `limit` seconds, if anything.
std::optional<Scene> next_scene(Watch& watch, double limit) {
  using Clock = std::chrono::steady_clock;
  static double frame_time = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(limit);
  while (Clock::now() < end) {
    frame_time += 0.25;
    if (std::optional<Scene> scene = watch.poll(frame_time)) {
      return scene;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return std::nullopt;
}

constexpr double soon = 30;  ///< something comes, on a busy machine too
constexpr double never = 1;  ///< long enough for many looks at the file

TEST(Watch, FollowsTheCommitsOfALiveCapture) {
  const test::Folder folder;
  const std::string path = folder / "x.capture.h5";
  Writer writer(path);
  Watch watch({path});
  EXPECT_FALSE(next_scene(watch, never)) << "nothing happened";
  writer.tell('w');
  EXPECT_FALSE(next_scene(watch, never)) << "written, not committed";
  writer.tell('c');
  std::optional<Scene> scene = next_scene(watch, soon);
  ASSERT_TRUE(scene);
  EXPECT_EQ(scene->token_count(), 6 + 3);
  EXPECT_EQ(scene->capture.steps, 3);
  writer.tell('w');
  EXPECT_FALSE(next_scene(watch, never)) << "the newest three are not committed";
  writer.tell('w');
  writer.tell('c');
  scene = next_scene(watch, soon);
  ASSERT_TRUE(scene);
  EXPECT_EQ(scene->token_count(), 6 + 9);
  writer.tell('f');
  scene = next_scene(watch, soon);
  ASSERT_TRUE(scene) << "the run has ended";
  EXPECT_EQ(scene->capture.state, 4);
  EXPECT_EQ(scene->token_count(), 6 + 9);
  EXPECT_FALSE(next_scene(watch, never));
}

TEST(Watch, OtherFilesAreReadWhenTheyAreReplaced) {
  const test::Folder folder;
  const std::string path = folder / "x.capture.h5";
  test::write_sample_capture(path);
  Watch watch({path});
  EXPECT_FALSE(next_scene(watch, never));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // another time stamp
  test::write_sample_capture(path, true);
  const std::optional<Scene> scene = next_scene(watch, soon);
  ASSERT_TRUE(scene);
  EXPECT_EQ(scene->token_count(), 8);
}

/// What takes the place of a file that is shown may be anything: it ends in an error, and a sound
/// file is shown again. Some of these crash HDF5 1.10 itself.
TEST(Watch, DamagedFilesAreOpenedElsewhereFirst) {
  const test::Folder folder;
  const std::string path = folder / "x.capture.h5";
  test::write_sample_capture(path);
  const std::string whole = test::read_bytes(path);
  const FileChecker checker;
  Watch watch({path}, &checker);
  std::uint64_t random = 3;
  const auto draw = [&](std::size_t bound) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(random >> 33) % bound;
  };
  int refused = 0;
  for (int round = 0; round < 20; ++round) {
    std::string bytes = whole;
    for (int change = 0; change < 200; ++change) {
      bytes[draw(bytes.size())] = static_cast<char>(draw(256));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // another time stamp
    test::write_bytes(path, bytes);
    try {
      EXPECT_TRUE(next_scene(watch, soon)) << round;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
  EXPECT_GT(checker.checks(), 15) << "each of them, but for those without the signature of HDF5";
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  test::write_bytes(path, whole);
  EXPECT_TRUE(next_scene(watch, soon)) << "a sound file again";
}

}  // namespace
}  // namespace kvscope::gui
