#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/recover.h"
#include "sample_files.h"

namespace kvscope::test {
namespace {

constexpr int planned_steps = 20000;

CaptureIndex live_index() {
  CaptureIndex index = sample_index();
  index.tokens = 6 + planned_steps;
  return index;
}

std::vector<DatasetSpec> live_datasets() {
  std::vector<DatasetSpec> specs = sample_datasets();
  specs[0].shape = {2, 4, 6 + planned_steps};
  specs[2].shape = {planned_steps, 2, 4};
  specs[3].shape = {planned_steps};
  return specs;
}

/// Every cell of step s is s + head / 8.
void write_step(CaptureWriter& writer, int step) {
  std::vector<float> row(8);
  for (std::size_t cell = 0; cell < 8; ++cell) {
    row[cell] = static_cast<float>(step) + static_cast<float>(cell) / 8;
  }
  writer.write("steps/entropy", {step, 0, 0}, {1, 2, 4}, std::span<const float>(row));
  const std::vector<std::int32_t> token = {step % 50};
  writer.write("steps/token", {step}, {1}, std::span<const std::int32_t>(token));
  writer.append_token(step % 50, 6 + step, std::string(static_cast<std::size_t>(step % 3), 'x'));
}

std::unique_ptr<CaptureWriter> start_live(const std::string& path) {
  auto writer =
      std::make_unique<CaptureWriter>(path, live_index(), sample_prompt(), live_datasets(),
                                      CaptureWriter::Options{false, false, true});
  const std::vector<float> plane(2 * 4 * 6, 0.5f);
  writer->write("reduce/attention_sum", {0, 0, 0}, {2, 4, 6}, std::span<const float>(plane));
  writer->layer_done(0);
  writer->layer_done(1);
  writer->set_state(CaptureState::decode);
  return writer;
}

/// A process of its own that writes `steps` steps and commits after every `every` of them, then
/// finishes the file if told to. Returns when the file is there.
pid_t start_writer(const std::string& path, int steps, int every, bool finish) {
  int told[2];
  EXPECT_EQ(pipe(told), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(told[0]);
    auto writer = start_live(path);
    static_cast<void>(!write(told[1], "x", 1));
    for (int step = 0; step < steps; ++step) {
      write_step(*writer, step);
      if (step % every == every - 1) {
        writer->commit(step + 1);
      }
    }
    if (finish) {
      writer->finish(steps);
    }
    _exit(0);
  }
  close(told[1]);
  char byte = 0;
  EXPECT_EQ(read(told[0], &byte, 1), 1);
  close(told[0]);
  return child;
}

/// Everything the file says is valid is there, and right.
void expect_whole(const CaptureReader& reader) {
  const int steps = reader.index().steps;
  ASSERT_GE(reader.tokens().size(), 6 + steps);
  for (int step = 0; step < steps; ++step) {
    const auto at = static_cast<std::size_t>(6 + step);
    ASSERT_EQ(reader.tokens().id[at], step % 50) << step;
    ASSERT_EQ(reader.tokens().text(6 + step).size(), static_cast<std::size_t>(step % 3)) << step;
  }
  if (steps == 0) {
    return;
  }
  std::vector<float> rows(static_cast<std::size_t>(steps) * 8);
  reader.read("steps/entropy", {0, 0, 0}, {steps, 2, 4}, std::span(rows));
  for (std::size_t cell = 0; cell < rows.size(); ++cell) {
    ASSERT_EQ(rows[cell], static_cast<float>(cell / 8) + static_cast<float>(cell % 8) / 8) << cell;
  }
}

TEST(LiveFile, IsFollowedWhileItGrows) {
  const Folder folder;
  const std::string path = folder / "x.capture.h5";
  // The writer in a process of its own: HDF5 lets one process open a file in one way only.
  int ready[2];
  int next[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(next), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte = 0;
    auto writer = start_live(path);
    for (int round = 1; round <= 3; ++round) {
      for (int step = (round - 1) * 10; step < round * 10; ++step) {
        write_step(*writer, step);
      }
      writer->commit(round * 10 - 3);  // the last three are written, not committed
      static_cast<void>(!write(ready[1], "x", 1));
      static_cast<void>(!read(next[0], &byte, 1));
    }
    writer->finish(30);
    static_cast<void>(!write(ready[1], "x", 1));
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(folder.names(), std::vector<std::string>{"x.capture.h5"});
  EXPECT_TRUE(being_written(path));
  CaptureReader reader(path);
  EXPECT_EQ(reader.index().state, 3);
  for (int round = 1; round <= 3; ++round) {
    EXPECT_EQ(reader.index().steps, round * 10 - 3);
    EXPECT_EQ(reader.tokens().size(), 6 + round * 10 - 3);
    expect_whole(reader);
    EXPECT_FALSE(reader.refresh()) << "nothing new";
    ASSERT_EQ(write(next[1], "x", 1), 1);
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    EXPECT_TRUE(reader.refresh());
  }
  EXPECT_EQ(reader.index().state, 4);
  EXPECT_EQ(reader.index().steps, 30);
  expect_whole(reader);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(being_written(path));
  EXPECT_TRUE(check_file(path).empty());
}

TEST(LiveFile, NobodyWritesOverOne) {
  const Folder folder;
  const std::string path = folder / "x.capture.h5";
  auto writer = start_live(path);
  const Error error = error_of([&] { write_sample_capture(path, true); });
  EXPECT_EQ(error.code(), ErrorCode::usage);
  EXPECT_NE(error.message().find("another run"), std::string::npos);
  EXPECT_EQ(error_of([&] { recover_capture(path, folder / "y.capture.h5"); }).code(),
            ErrorCode::usage);
  EXPECT_NE(error_of([&] { writer->set_attribute("", "late", "x"); }).message(), "");
  writer->finish(0);
  writer.reset();
  write_sample_capture(path, true);
}

TEST(LiveFile, AStoppedRunSaysWhy) {
  const Folder folder;
  const std::string path = folder / "x.capture.h5";
  {
    auto writer = start_live(path);
    write_step(*writer, 0);
    write_step(*writer, 1);
    writer->commit(2);
    writer->stop(CaptureState::stopped, "interrupted by the user");
  }
  const CaptureReader reader(path);
  EXPECT_EQ(reader.index().state, 5);
  EXPECT_EQ(reader.index().message, "interrupted by the user");
  EXPECT_EQ(reader.index().steps, 2);
  expect_whole(reader);
  EXPECT_FALSE(check_file(path).empty());
}

TEST(LiveFile, KilledAtAnyMomentEveryCommittedRowIsIntact) {
  const Folder folder;
  int with_steps = 0;
  std::uint64_t random = 11;
  for (int round = 0; round < 100; ++round) {
    const std::string path = folder / ("x" + std::to_string(round) + ".capture.h5");
    const pid_t child = start_writer(path, planned_steps, 8, false);
    random = random * 6364136223846793005u + 1442695040888963407u;
    std::this_thread::sleep_for(std::chrono::microseconds((random >> 33) % 12000));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    {
      const CaptureReader reader(path);
      EXPECT_NE(reader.index().state, 4);
      expect_whole(reader);
      with_steps += reader.index().steps > 0 ? 1 : 0;
      EXPECT_EQ(reader.read_plane("attention_sum", 1, 6), std::vector<float>(24, 0.5f));
      const std::string before = read_bytes(path);
      const std::string saved = folder / "saved.capture.h5";
      const Recovered recovered = recover_capture(path, saved, true);
      EXPECT_EQ(recovered.steps, reader.index().steps);
      EXPECT_EQ(recovered.layers_done, 2);
      EXPECT_EQ(read_bytes(path), before);  // never edited
      const CaptureReader copy(saved);
      EXPECT_EQ(copy.index().state, 6);
      EXPECT_EQ(copy.index().steps, reader.index().steps);
      EXPECT_EQ(copy.shape("steps/entropy")[0], reader.index().steps);
      expect_whole(copy);
      EXPECT_EQ(copy.read_plane("attention_sum", 1, 6), std::vector<float>(24, 0.5f));
      EXPECT_EQ(copy.attribute("reduce/attention_sum", "formula"), "sum_i p_ij");
    }
    std::filesystem::remove(path);
  }
  EXPECT_GT(with_steps, 50);
}

TEST(LiveFile, FullDiskKeepsWhatWasCommitted) {
  const Folder folder;
  std::size_t header = 0;
  {
    const std::string path = folder / "empty.capture.h5";
    auto writer = start_live(path);
    writer->finish(0);
    header = read_bytes(path).size();
    std::filesystem::remove(path);
  }
  int full = 0;
  int with_steps = 0;
  for (int kilobytes = 8; kilobytes <= 512; kilobytes += 24) {
    const std::string path = folder / ("x" + std::to_string(kilobytes) + ".capture.h5");
    const pid_t child = fork();
    if (child == 0) {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlim_t most = header + 1024u * static_cast<rlim_t>(kilobytes);
      const rlimit size{most, most};
      setrlimit(RLIMIT_FSIZE, &size);
      auto writer = start_live(path);
      try {
        for (int step = 0; step < planned_steps; ++step) {
          write_step(*writer, step);
          if (step % 8 == 7) {
            writer->commit(step + 1);
          }
        }
      } catch (const Error& error) {
        writer->stop(CaptureState::disk_full, error.message());
        _exit(error.code() == ErrorCode::io ? 1 : 2);
      }
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status)) << kilobytes;
    ASSERT_LE(WEXITSTATUS(status), 1) << kilobytes;
    full += WEXITSTATUS(status);
    const CaptureReader reader(path);
    EXPECT_EQ(reader.index().state, WEXITSTATUS(status) == 1 ? 7 : 6) << kilobytes;
    with_steps += reader.index().steps > 0 ? 1 : 0;
    expect_whole(reader);
    EXPECT_EQ(recover_capture(path, folder / "saved.capture.h5", true).steps, reader.index().steps);
    std::filesystem::remove(path);
  }
  EXPECT_GT(full, 10);
  EXPECT_GT(with_steps, 10);
}

TEST(LiveFile, ReadersBesideTheWriterNeverSeeBeyondTheCommit) {
  const Folder folder;
  const std::string path = folder / "x.capture.h5";
  const pid_t child = start_writer(path, 4000, 8, true);
  CaptureReader reader(path);
  int seen = 0;
  int last = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (reader.index().state != 4 && std::chrono::steady_clock::now() < end) {
    seen += reader.refresh() ? 1 : 0;
    ASSERT_GE(reader.index().steps, last);
    last = reader.index().steps;
    ASSERT_NO_FATAL_FAILURE(expect_whole(reader));
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(reader.index().steps, 4000);
  EXPECT_GT(seen, 2);
}

TEST(LiveFile, WhoSeesTheEndSeesAllOfIt) {
  constexpr int steps = 24;
  const Folder folder;
  for (int round = 0; round < 100; ++round) {
    const std::string path = folder / ("x" + std::to_string(round) + ".capture.h5");
    const pid_t child = start_writer(path, steps, 1, true);
    CaptureReader reader(path);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (reader.index().state != 4 && std::chrono::steady_clock::now() < end) {
      reader.refresh();
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    ASSERT_EQ(reader.index().state, 4) << round;
    ASSERT_EQ(reader.index().steps, steps) << round;
    ASSERT_NO_FATAL_FAILURE(expect_whole(reader));
    std::filesystem::remove(path);
  }
}

TEST(LiveFile, ATornRowOfTheRingIsPassedOver) {
  const Folder folder;
  const std::string path = folder / "x.capture.h5";
  {
    auto writer = start_live(path);
    for (int step = 0; step < 3; ++step) {
      write_step(*writer, step);
      writer->commit(step + 1);
    }
    writer->stop(CaptureState::error, "test");
  }
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t ring = H5Dopen2(file, "status/commit", H5P_DEFAULT);
  std::vector<std::uint64_t> rows(4096);
  H5Dread(ring, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows.data());
  rows[4 * 4 + 1] = 3000;  // the newest row (the fourth commit): half written
  H5Dwrite(ring, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows.data());
  H5Dclose(ring);
  H5Fclose(file);
  EXPECT_EQ(CaptureReader(path).index().steps, 2);
}

}  // namespace
}  // namespace kvscope::test
