#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "kvscope/core/error.h"

namespace kvscope::test {

inline std::string source_path(const std::string& name) {
  return std::string(KVSCOPE_SOURCE_DIR) + "/" + name;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A folder of its own for one test, gone afterwards.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            (std::string("kvscope_") + test->test_suite_name() + "_" + test->name());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return (path_ / name).string();
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// The awkward strings of tests/golden/awkward_strings.py.
inline std::vector<std::string> awkward_strings() {
  std::ifstream file(source_path("tests/golden/tokenizers/strings.txt"));
  std::vector<std::string> strings;
  for (std::string line; std::getline(file, line);) {
    strings.push_back(nlohmann::json::parse(line).get<std::string>());
  }
  EXPECT_EQ(strings.size(), 2000u);
  return strings;
}

/// One row of integers for each awkward string.
inline std::vector<std::vector<std::int32_t>> golden_rows(const std::string& name) {
  std::ifstream file(source_path("tests/golden/tokenizers/" + name));
  std::vector<std::vector<std::int32_t>> rows;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    rows.emplace_back(std::istream_iterator<std::int32_t>(words),
                      std::istream_iterator<std::int32_t>());
  }
  EXPECT_EQ(rows.size(), 2000u) << name;
  return rows;
}

/// Runs `action` and returns the Error it throws; fails the test if there is none.
template <typename Action>
Error error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorCode::failed, "no error");
}

}  // namespace kvscope::test
