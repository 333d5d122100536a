#include "gguf.h"

#include <gtest/gtest.h>

#include <cstring>

#include "gguf_writer.h"
#include "model_test_support.h"

namespace kvscope {
namespace {

using test::TemporaryFolder;

test::GgufWriter small_file() {
  test::GgufWriter writer;
  writer.text("general.architecture", "llama");
  writer.integer("a.number", 7);
  writer.real("a.real", 0.5f);
  writer.flag("a.flag", true);
  writer.texts("a.texts", {"x", "", "yz"});
  writer.integers("a.integers", {1, -2, 3});
  writer.tensor("first", {2, 3}, 0, std::string(24, '\1'));
  writer.tensor("second", {32}, 2, std::string(18, '\2'));
  return writer;
}

/// Opens `bytes`; whatever they are, the outcome is a file or an Error.
bool opens(const TemporaryFolder& folder, const std::string& bytes) {
  try {
    const GgufFile file(folder.write("x.gguf", bytes));
    for (const GgufTensor& tensor : file.tensors()) {
      EXPECT_NE(file.data(tensor), nullptr);
    }
    return true;
  } catch (const Error& error) {
    EXPECT_FALSE(error.message().empty());
    EXPECT_THAT(error.where(), testing::HasSubstr("x.gguf"));
    EXPECT_TRUE(error.code() == ErrorCode::corrupt_file || error.code() == ErrorCode::unsupported);
    return false;
  }
}

template <typename T>
std::string number(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string header(std::uint32_t version, std::uint64_t tensors, std::uint64_t keys) {
  return "GGUF" + number(version) + number(tensors) + number(keys);
}

std::string counted(const std::string& text) {
  return number<std::uint64_t>(text.size()) + text;
}

TEST(Gguf, ReadsMetadataAndTensors) {
  const TemporaryFolder folder;
  const GgufFile file(folder.write("x.gguf", small_file().bytes()));
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(file.integer("a.number"), 7);
  EXPECT_EQ(file.real("a.real", 0), 0.5);
  EXPECT_TRUE(file.flag("a.flag", false));
  EXPECT_EQ(file.texts("a.texts"), (std::vector<std::string>{"x", "", "yz"}));
  EXPECT_EQ(file.integers("a.integers"), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_EQ(file.integer("absent", 5), 5);
  ASSERT_NE(file.find("first"), nullptr);
  EXPECT_EQ(file.find("first")->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(*file.data(*file.find("second")), 2);
  EXPECT_EQ(file.find("third"), nullptr);
  EXPECT_EQ(test::error_of([&] { file.integer("absent"); }).code(), ErrorCode::corrupt_file);
  EXPECT_THAT(test::error_of([&] { file.integer("a.real"); }).message(),
              testing::HasSubstr("'a.real' is of another kind"));
}

TEST(Gguf, TruncationAnywhereIsAnError) {
  const TemporaryFolder folder;
  const std::string bytes = small_file().bytes();
  ASSERT_TRUE(opens(folder, bytes));
  const std::size_t data_end = bytes.size() - 14;  // the last tensor has 18 bytes, padded to 32
  for (std::size_t size = 0; size < data_end; ++size) {
    EXPECT_FALSE(opens(folder, bytes.substr(0, size))) << size;
  }
}

TEST(Gguf, EveryFlippedBitIsReadOrRefused) {
  const TemporaryFolder folder;
  const std::string bytes = small_file().bytes();
  int refused = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string changed = bytes;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
    refused += opens(folder, changed) ? 0 : 1;
  }
  EXPECT_GT(refused, 500);
}

TEST(Gguf, CountsAreHeldAgainstWhatIsLeft) {
  const TemporaryFolder folder;
  const std::string body(64, '\0');
  for (const std::uint64_t count : {std::uint64_t{3}, std::uint64_t{1} << 32, ~std::uint64_t{0}}) {
    EXPECT_FALSE(opens(folder, header(3, count, 0) + body)) << count;
    EXPECT_FALSE(opens(folder, header(3, 0, count + 3) + body)) << count;
  }
  const std::string key = header(3, 0, 1) + counted("k");
  EXPECT_FALSE(opens(folder, key + number<std::uint32_t>(8) + number(std::uint64_t{1} << 63)));
  for (std::uint32_t type = 0; type < 14; ++type) {
    EXPECT_FALSE(opens(folder, key + number<std::uint32_t>(9) + number(type) +
                                   number(std::uint64_t{1} << 60) + body))
        << type;
  }
  EXPECT_FALSE(opens(folder, key + number<std::uint32_t>(13) + body)) << "unknown value type";
  EXPECT_FALSE(opens(folder, key + number<std::uint32_t>(9) + number<std::uint32_t>(9) +
                                 number<std::uint64_t>(1) + body))
      << "nested array";
}

TEST(Gguf, VersionsAndByteOrder) {
  const TemporaryFolder folder;
  EXPECT_TRUE(opens(folder, header(2, 0, 0)));
  EXPECT_FALSE(opens(folder, header(1, 0, 0)));
  EXPECT_FALSE(opens(folder, header(4, 0, 0)));
  const Error error = test::error_of(
      [&] { GgufFile(folder.write("big.gguf", "GGUF" + number<std::uint32_t>(0x03000000))); });
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_THAT(error.message(), testing::HasSubstr("byte order"));
}

std::string with_tensor(const std::string& name, const std::vector<std::uint64_t>& axes,
                        std::uint32_t type, std::uint64_t offset) {
  std::string info = counted(name) + number(static_cast<std::uint32_t>(axes.size()));
  for (const std::uint64_t axis : axes) {
    info += number(axis);
  }
  return info + number(type) + number(offset);
}

TEST(Gguf, HostileTensorsAreRefused) {
  const TemporaryFolder folder;
  const auto one = [&](const std::string& info) {
    return opens(folder, header(3, 1, 0) + info + std::string(512, '\0'));
  };
  EXPECT_TRUE(one(with_tensor("t", {32}, 0, 0)));
  EXPECT_FALSE(one(with_tensor("t", {32}, 0, 32))) << "a gap";
  EXPECT_FALSE(one(with_tensor("t", {32}, 0, 1))) << "unaligned";
  EXPECT_FALSE(one(with_tensor("t", {32}, 0, ~std::uint64_t{0}))) << "far away";
  EXPECT_FALSE(one(with_tensor("t", {4096}, 0, 0))) << "longer than the file";
  EXPECT_FALSE(one(with_tensor("t", {~std::uint64_t{0}}, 0, 0)));
  EXPECT_FALSE(one(with_tensor("t", {1u << 31, 1u << 31, 1u << 31}, 0, 0))) << "overflow";
  EXPECT_FALSE(one(with_tensor("t", {0}, 0, 0)));
  EXPECT_FALSE(one(with_tensor("t", {}, 0, 0)));
  EXPECT_FALSE(one(with_tensor("t", {1, 1, 1, 1, 1}, 0, 0)));
  EXPECT_FALSE(one(with_tensor("t", {31}, 2, 0))) << "no multiple of the block";
  EXPECT_FALSE(one(with_tensor("t", {32}, 99, 0))) << "unknown type";
  EXPECT_FALSE(one(with_tensor("", {32}, 0, 0)));
  EXPECT_FALSE(one(with_tensor(std::string(64, 'n'), {32}, 0, 0)));
  const std::string twice = with_tensor("t", {8}, 0, 0) + with_tensor("t", {8}, 0, 32);
  EXPECT_FALSE(opens(folder, header(3, 2, 0) + twice + std::string(512, '\0'))) << "twice";
  const std::string overlap = with_tensor("t", {8}, 0, 0) + with_tensor("u", {8}, 0, 0);
  EXPECT_FALSE(opens(folder, header(3, 2, 0) + overlap + std::string(512, '\0'))) << "overlap";
}

TEST(Gguf, AlignmentIsAPowerOfTwo) {
  const TemporaryFolder folder;
  for (const std::uint32_t alignment : {0u, 3u, 33u, 1u << 30}) {
    test::GgufWriter writer;
    writer.integer("general.alignment", alignment);
    EXPECT_FALSE(opens(folder, writer.bytes())) << alignment;
  }
  test::GgufWriter writer;
  writer.integer("general.alignment", 64);
  EXPECT_TRUE(opens(folder, writer.bytes()));
}

TEST(Gguf, ForeignFilesAreNamed) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& bytes) {
    return test::error_of([&] { GgufFile(folder.write("x", bytes)); }).message();
  };
  EXPECT_THAT(message("version https://git-lfs.github.com/spec/v1\n"), testing::HasSubstr("LFS"));
  EXPECT_THAT(message("<!DOCTYPE html><html>"), testing::HasSubstr("web page"));
  EXPECT_THAT(message(""), testing::HasSubstr("empty"));
  EXPECT_THAT(message(std::string(1000, 'x')), testing::HasSubstr("not a GGUF"));
  EXPECT_EQ(test::error_of([&] { GgufFile(folder / "absent"); }).code(), ErrorCode::io);
  EXPECT_EQ(test::error_of([&] { GgufFile(folder.path()); }).code(), ErrorCode::io);
}

TEST(Gguf, AFileCutShortWhileInUseIsNoticed) {
  const TemporaryFolder folder;
  const std::string path = folder.write("x.gguf", small_file().bytes());
  const GgufFile file(path);
  file.check_size();
  std::filesystem::resize_file(path, 100);
  EXPECT_EQ(test::error_of([&] { file.check_size(); }).code(), ErrorCode::io);
}

}  // namespace
}  // namespace kvscope
