#include "kvscope/storage/calibration_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "kvscope/core/error.h"
#include "kvscope/storage/file_kind.h"

namespace kvscope {
namespace {

class CalibrationFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name = "a.calibration.h5") const {
    return (folder_ / name).string();
  }

  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  static Calibration small() {
    Calibration calibration;
    calibration.model_name = "tiny";
    calibration.model_hash = "0123456789abcdef";
    calibration.corpus_hash = "fedcba9876543210";
    calibration.layers = 2;
    calibration.query_heads = 4;
    calibration.kv_heads = 2;
    calibration.head_dim = 6;
    calibration.tokens = 1234;
    calibration.window = 512;
    CalibrationArray array;
    array.shape = {2, 4, 3};
    array.axes = {"layer", "query_head", "band"};
    array.units = "of the vector";
    array.long_name = "mean length";
    array.formula = "E|q_f|";
    for (int cell = 0; cell < 24; ++cell) {
      array.values.push_back(0.25f * static_cast<float>(cell) - 1.0f);
    }
    calibration.arrays["queries/mean_abs"] = array;
    array.shape = {2, 2};
    array.axes = {"layer", "kv_head"};
    array.values.resize(4);
    calibration.arrays["heads/role"] = array;
    return calibration;
  }

  ErrorCode code_of_reading(const std::string& name) const {
    try {
      read_calibration(path(name));
    } catch (const Error& error) {
      EXPECT_FALSE(error.message().empty());
      return error.code();
    }
    ADD_FAILURE() << name << " was read";
    return ErrorCode::failed;
  }

  std::string bytes() const {
    std::ifstream file(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
  }

  std::filesystem::path folder_;
};

TEST_F(CalibrationFile, WhatIsWrittenIsRead) {
  const Calibration before = small();
  write_calibration(path(), before);
  const Calibration after = read_calibration(path());
  EXPECT_EQ(after.model_name, before.model_name);
  EXPECT_EQ(after.model_hash, before.model_hash);
  EXPECT_EQ(after.corpus_hash, before.corpus_hash);
  EXPECT_EQ(after.tokens, 1234);
  EXPECT_EQ(after.window, 512);
  EXPECT_EQ(after.head_dim, 6);
  ASSERT_EQ(after.arrays.size(), 2u);
  const CalibrationArray& array = after.arrays.at("queries/mean_abs");
  EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 4, 3}));
  EXPECT_EQ(array.axes, (std::vector<std::string>{"layer", "query_head", "band"}));
  EXPECT_EQ(array.units, "of the vector");
  EXPECT_EQ(array.formula, "E|q_f|");
  EXPECT_EQ(array.values, before.arrays.at("queries/mean_abs").values);
  EXPECT_EQ(after.find("absent"), nullptr);
  EXPECT_TRUE(file_kind(path()) == FileKind::calibration);
  EXPECT_TRUE(check_file(path()).empty());
  EXPECT_EQ(files(), 1u);
}

TEST_F(CalibrationFile, DoesNotOverwriteUnlessForced) {
  write_calibration(path(), small());
  EXPECT_THROW(write_calibration(path(), small()), Error);
  EXPECT_NO_THROW(write_calibration(path(), small(), true));
  EXPECT_EQ(files(), 1u);
}

TEST_F(CalibrationFile, WritesNothingThatContradictsItself) {
  Calibration bad = small();
  bad.arrays["queries/mean_abs"].values[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(write_calibration(path(), bad), Error);
  bad = small();
  bad.arrays["queries/mean_abs"].values.pop_back();
  EXPECT_THROW(write_calibration(path(), bad), Error);
  bad = small();
  bad.query_heads = 5;
  EXPECT_THROW(write_calibration(path(), bad), Error);
  bad = small();
  bad.arrays["elsewhere"] = bad.arrays["heads/role"];
  EXPECT_THROW(write_calibration(path(), bad), Error);
  EXPECT_EQ(files(), 0u);
}

TEST_F(CalibrationFile, RefusesForeignFiles) {
  write("text.calibration.h5", "not a file of ours");
  write("empty.calibration.h5", "");
  EXPECT_EQ(code_of_reading("text.calibration.h5"), ErrorCode::corrupt_file);
  EXPECT_EQ(code_of_reading("empty.calibration.h5"), ErrorCode::corrupt_file);
  EXPECT_EQ(code_of_reading("absent.calibration.h5"), ErrorCode::io);
}

/// Cut short anywhere, or with any byte of its first block changed, a file is read as it was or
/// refused; it never crashes.
TEST_F(CalibrationFile, SurvivesDamage) {
  write_calibration(path(), small());
  const std::string good = bytes();
  int refused = 0;
  for (std::size_t length = 0; length < good.size(); length += 61) {
    write("cut.h5", good.substr(0, length));
    try {
      read_calibration(path("cut.h5"));
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
  int changed = 0;
  for (std::size_t byte = 0; byte < std::min<std::size_t>(good.size(), 3000); byte += 7) {
    std::string bad = good;
    bad[byte] = static_cast<char>(bad[byte] ^ 0x5A);
    write("bad.h5", bad);
    try {
      const Calibration read = read_calibration(path("bad.h5"));
      for (const auto& [name, array] : read.arrays) {
        EXPECT_EQ(static_cast<std::size_t>(array.shape[0] * array.shape[1] *
                                           (array.shape.size() > 2 ? array.shape[2] : 1)),
                  array.values.size());
      }
    } catch (const Error&) {
      ++changed;
    }
  }
  EXPECT_GT(changed, 3);
}

}  // namespace
}  // namespace kvscope
