#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <stdexcept>

#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"
#include "sample_files.h"

namespace kvscope::test {
namespace {

/// Runs `body` in a child whose files may not grow beyond `limit` bytes, as on a full disk.
/// Returns 0 if it wrote, 1 if it threw Error{io}, 2 for another error.
int with_file_limit(std::size_t limit, const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit size{limit, limit};
    setrlimit(RLIMIT_FSIZE, &size);
    try {
      body();
    } catch (const Error& error) {
      _exit(error.code() == ErrorCode::io && !error.where().empty() ? 1 : 2);
    } catch (...) {
      _exit(3);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

TEST(InterruptedWrite, ExceptionLeavesNothing) {
  const Folder folder;
  try {
    CaptureWriter writer(folder / "x.capture.h5", sample_index(), sample_prompt(),
                         sample_datasets(), {});
    EXPECT_EQ(folder.names().size(), 1u);  // the temporary one
    EXPECT_NE(folder.names().front(), "x.capture.h5");
    throw std::runtime_error("the run failed");
  } catch (const std::runtime_error&) {
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(InterruptedWrite, MissingFolderIsNamed) {
  const Folder folder;
  const Error error = error_of([&] { write_sample_capture(folder / "no/such/x.capture.h5"); });
  EXPECT_EQ(error.code(), ErrorCode::io);
  EXPECT_NE(error.where().find("no/such"), std::string::npos);
}

TEST(InterruptedWrite, FullDiskLeavesNothingAtAnyLimit) {
  const Folder folder;
  const std::vector<std::pair<std::string, std::function<void()>>> writers = {
      {"x.capture.h5", [&] { write_sample_capture(folder / "x.capture.h5"); }},
      {"x.decision.h5", [&] { write_decision(folder / "x.decision.h5", sample_decision()); }},
      {"x.spectrum.h5", [&] { write_spectrum(folder / "x.spectrum.h5", sample_spectrum()); }}};
  for (const auto& [name, write] : writers) {
    write();
    const std::size_t whole = read_bytes(folder / name).size();
    std::filesystem::remove(folder / name);
    int full = 0;
    for (std::size_t limit = 0; limit < whole; limit += whole / 40 + 1) {
      const int result = with_file_limit(limit, write);
      if (result == 0) {  // what the limit cut off was not written: alignment at the end
        EXPECT_TRUE(check_file(folder / name).empty()) << name << " " << limit;
        std::filesystem::remove(folder / name);
        continue;
      }
      ++full;
      EXPECT_EQ(result, 1) << name << " limited to " << limit << " of " << whole;
      EXPECT_TRUE(folder.names().empty()) << name << " limited to " << limit;
    }
    EXPECT_GT(full, 20) << name;
    EXPECT_EQ(with_file_limit(2 * whole, write), 0);
    std::filesystem::remove(folder / name);
  }
}

}  // namespace
}  // namespace kvscope::test
