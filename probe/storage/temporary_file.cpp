#include "temporary_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <utility>

#include "kvscope/core/error.h"
#include "kvscope/storage/capture_state.h"

namespace kvscope {
namespace {

void refuse_existing(const std::string& path) {
  std::error_code failure;
  KVSCOPE_CHECK(!std::filesystem::exists(path, failure), ErrorCode::usage, "the output file exists",
                path, "choose another name, or pass --force");
}

void refuse_live(const std::string& path) {
  KVSCOPE_CHECK(!being_written(path), ErrorCode::usage, "another run is writing this file", path,
                "choose another name, or wait for its end");
}

}  // namespace

TemporaryFile::TemporaryFile(std::string path, bool force) : path_(std::move(path)), force_(force) {
  static std::atomic<int> counter{0};
  const std::filesystem::path folder = std::filesystem::absolute(path_).parent_path();
  std::error_code failure;
  KVSCOPE_CHECK(std::filesystem::is_directory(folder, failure), ErrorCode::io,
                "the folder of the output file does not exist", folder.string(), "create it");
  if (!force_) {
    refuse_existing(path_);
  }
  refuse_live(path_);
  temporary_ = fmt::format("{}.{}.{}.tmp", path_, getpid(), counter++);
}

TemporaryFile::~TemporaryFile() {
  if (!committed_) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
  }
}

void TemporaryFile::commit() {
  if (!force_) {
    refuse_existing(path_);
  }
  refuse_live(path_);
  std::error_code failure;
  std::filesystem::rename(temporary_, path_, failure);
  KVSCOPE_CHECK(!failure, ErrorCode::io,
                fmt::format("the finished file cannot be renamed: {}", failure.message()), path_);
  committed_ = true;
}

}  // namespace kvscope
