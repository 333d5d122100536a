#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/file_system.h"
#include "kvscope/storage/isolated.h"
#include "reserve.h"
#include "sample_files.h"

namespace {

/// What flock says in this program: 0 = as the system does, else this error.
std::atomic<int> lock_error{0};

}  // namespace

/// HDF5 calls this one in place of the C library's.
extern "C" int flock(int descriptor, int operation) {
  if (const int error = lock_error.load(); error != 0) {
    errno = error;
    return -1;
  }
  return static_cast<int>(syscall(SYS_flock, descriptor, operation));
}

namespace kvscope::test {
namespace {

/// probe.md 9, row 23.
TEST(FileFaults, AFileSystemThatForbidsLocksIsNamed) {
  const Folder folder;
  const std::string path = folder / "x.capture.h5";
  write_sample_capture(path);
  for (const int refusal : {ENOLCK, EOPNOTSUPP, EACCES}) {
    lock_error = refusal;
    const Error reading = error_of([&] { CaptureReader reader(path); });
    const Error writing = error_of([&] { write_sample_capture(folder / "y.capture.h5"); });
    lock_error = 0;
    for (const Error& error : {reading, writing}) {
      EXPECT_EQ(error.code(), ErrorCode::io) << error.message();
      EXPECT_NE(error.message().find("cannot be locked"), std::string::npos) << error.message();
      EXPECT_NE(error.fix().find("HDF5_USE_FILE_LOCKING"), std::string::npos) << error.fix();
    }
  }
  EXPECT_EQ(CaptureReader(path).index().steps, 2);
}

/// Row 17: the space is there while the reserve is held, and free again after.
TEST(FileFaults, TheReserveHoldsOneMebibyteWithoutAName) {
  const Folder folder;
  const auto held_blocks = [] {  // of files of this process that have no name
    std::int64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      struct stat facts = {};
      const int descriptor = std::stoi(entry.path().filename().string());
      if (fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_nlink == 0) {
        bytes += facts.st_blocks * 512;
      }
    }
    return bytes;
  };
  const std::int64_t before = held_blocks();
  Reserve reserve(folder / "x.capture.h5");
  ASSERT_TRUE(reserve.held());
  EXPECT_GE(held_blocks() - before, Reserve::bytes);
  EXPECT_TRUE(folder.names().empty()) << "nothing to be left behind";
  reserve.release();
  EXPECT_EQ(held_blocks(), before);
  const Reserve nowhere("/no/such/folder/x.capture.h5");
  EXPECT_FALSE(nowhere.held());
}

/// Row 17: a live file holds one until it ends.
TEST(FileFaults, ALiveFileHoldsAReserve) {
  const Folder folder;
  const auto nameless = [] {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      struct stat facts = {};
      const int descriptor = std::stoi(entry.path().filename().string());
      count += fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_nlink == 0 &&
               facts.st_size == Reserve::bytes;
    }
    return count;
  };
  CaptureWriter writer(folder / "x.capture.h5", sample_index(), sample_prompt(), sample_datasets(),
                       {false, false, true});
  EXPECT_EQ(nameless(), 1);
  writer.stop(CaptureState::disk_full, "the disk is full");
  EXPECT_EQ(nameless(), 0);
}

/// Row 22; numbers of linux/magic.h.
TEST(FileFaults, SharedFileSystemsAreKnown) {
  EXPECT_EQ(shared_file_system_name(0x6969), "NFS");
  EXPECT_EQ(shared_file_system_name(0xFF534D42), "SMB");
  EXPECT_EQ(shared_file_system_name(static_cast<std::int32_t>(0xFE534D42)), "SMB")
      << "f_type is signed on some machines";
  EXPECT_EQ(shared_file_system_name(0x65735546), "FUSE");
  EXPECT_EQ(shared_file_system_name(0xEF53), "") << "ext4";
  EXPECT_EQ(shared_file_system_name(0x01021994), "") << "tmpfs";
  EXPECT_EQ(shared_file_system("/proc/self/none"), "");
}

/// Row 26: a child that reads too long, takes too much or crashes ends in an error here.
TEST(Isolated, AChildIsHeldToItsLimits) {
  const Folder folder;
  const std::string path = folder / "x.h5";
  write_bytes(path, "anything");
  const auto start = std::chrono::steady_clock::now();
  const Error endless = error_of([&] {
    run_isolated(path,
                 [] {
                   while (true) {
                     pause();
                   }
                   return 0;
                 },
                 {0, 1});
  });
  EXPECT_EQ(endless.code(), ErrorCode::corrupt_file);
  EXPECT_NE(endless.message().find("does not end; stopped after 1 s"), std::string::npos)
      << endless.message();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  const auto take = [](std::size_t bytes) {
    try {
      const std::string block(bytes, 'x');
      return block[bytes / 2] == 'x' ? 0 : 7;
    } catch (const std::bad_alloc&) {
      return 5;
    }
  };
  EXPECT_EQ(run_isolated(path, [&] { return take(1 << 20); }, {64 << 20, 60}), 0);
#ifdef __SANITIZE_ADDRESS__
  constexpr int refused = 1;  // the sanitizer ends a process that runs out of memory
#else
  constexpr int refused = 5;
#endif
  EXPECT_EQ(run_isolated(path, [&] { return take(512 << 20); }, {64 << 20, 60}), refused);
  const Error crash = error_of([&] {
    run_isolated(path, [] {
      std::signal(SIGSEGV, SIG_DFL);
      return raise(SIGSEGV);
    });
  });
  EXPECT_NE(crash.message().find("crashed"), std::string::npos) << crash.message();
  EXPECT_EQ(run_isolated(path, [] { return 3; }), 3);
}

TEST(Isolated, FilesAreCheckedFirstAndTheErrorIsWhole) {
  const Folder folder;
  write_sample_capture(folder / "x.capture.h5");
  write_bytes(folder / "text.txt", "no HDF5");
  check_isolated({folder / "x.capture.h5", folder / "text.txt", folder / "absent.h5", ""});
  const std::string whole = read_bytes(folder / "x.capture.h5");
  write_bytes(folder / "cut.capture.h5", whole.substr(0, whole.size() / 2));
  const std::string cut = folder / "cut.capture.h5";
  const Error direct = error_of([&] { CaptureReader reader(cut); });
  const Error isolated = error_of([&] { check_isolated({folder / "x.capture.h5", cut}); });
  EXPECT_EQ(isolated.code(), direct.code());
  EXPECT_EQ(isolated.message(), direct.message());
  EXPECT_EQ(isolated.where(), direct.where());
  EXPECT_EQ(isolated.fix(), direct.fix());
  // HDF5 also opens what has its signature behind the first 512 bytes, 1024, ...; we never write
  // it.
  for (const std::size_t block : {std::size_t{512}, std::size_t{4096}}) {
    write_bytes(cut, std::string(block, 'x') + whole.substr(0, whole.size() / 2));
    EXPECT_EQ(error_of([&] { check_isolated({cut}); }).code(), ErrorCode::unsupported);
  }
}

/// Checked from threads, in processes that have none; once for each change of a file.
TEST(Isolated, AFileThatChangesIsCheckedAgain) {
  const Folder folder;
  const std::string path = folder / "x.capture.h5";
  write_sample_capture(path);
  const std::string whole = read_bytes(path);
  const FileChecker checker;
  const auto ask = [&](const std::string& file) {
    return std::async(std::launch::async, [&, file] { checker.check({file}); });
  };
  ask(path).get();
  ask(path).get();
  EXPECT_EQ(checker.checks(), 1) << "the file did not change";
  write_bytes(path, whole.substr(0, whole.size() / 2));
  const Error direct = error_of([&] { CaptureReader reader(path); });
  for (int turn = 0; turn < 2; ++turn) {
    const Error found = error_of([&] { ask(path).get(); });
    EXPECT_EQ(found.code(), direct.code());
    EXPECT_EQ(found.message(), direct.message());
    EXPECT_EQ(found.where(), direct.where());
  }
  EXPECT_EQ(checker.checks(), 2) << "what was wrong is remembered";
  write_bytes(path, whole);
  std::vector<std::future<void>> together;
  for (int thread = 0; thread < 8; ++thread) {
    together.push_back(ask(path));
  }
  for (std::future<void>& one : together) {
    one.get();
  }
  EXPECT_EQ(checker.checks(), 3) << "sound again";
  write_bytes(folder / "text.txt", "no HDF5");
  checker.check({folder / "text.txt", folder / "absent.h5", ""});
  EXPECT_EQ(checker.checks(), 3);
}

}  // namespace
}  // namespace kvscope::test
