#include "safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "hf_folder.h"
#include "model_test_support.h"

namespace kvscope {
namespace {

using test::TemporaryFolder;
using testing::HasSubstr;

std::string with_header(const std::string& header, const std::string& data = {}) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

std::string small_file() {
  test::SafetensorsWriter writer;
  writer.add("a", "F32", {2, 3}, test::float_bytes({1, 2, 3, 4, 5, 6}));
  writer.add("b", "BF16", {2}, std::string("\x80\x3F\x00\xC0", 4));
  writer.add("empty", "F16", {0, 7}, "");
  writer.add("scalar", "F16", {}, std::string("\x00\x3C", 2));
  return writer.bytes();
}

/// Opens `bytes`; whatever they are, the outcome is a file or an Error.
bool opens(const TemporaryFolder& folder, const std::string& bytes) {
  try {
    const SafetensorsFile file(folder.write("x.safetensors", bytes));
    for (const StoredTensor& tensor : file.tensors()) {
      std::vector<float> values(static_cast<std::size_t>(tensor.elements));
      tensor.block->dequantise(tensor.data, tensor.elements, values.data());
    }
    return true;
  } catch (const Error& error) {
    EXPECT_THAT(error.where(), HasSubstr("x.safetensors"));
    EXPECT_TRUE(error.code() == ErrorCode::corrupt_file || error.code() == ErrorCode::unsupported);
    return false;
  }
}

TEST(Safetensors, ReadsTensors) {
  const TemporaryFolder folder;
  const SafetensorsFile file(folder.write("x.safetensors", small_file()));
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::int64_t>{2, 3}));
  float values[2];
  file.tensors()[1].block->dequantise(file.tensors()[1].data, 2, values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -2.0f);
}

TEST(Safetensors, TruncationAnywhereIsAnError) {
  const TemporaryFolder folder;
  const std::string bytes = small_file();
  ASSERT_TRUE(opens(folder, bytes));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(opens(folder, bytes.substr(0, size))) << size;
  }
  EXPECT_FALSE(opens(folder, bytes + '\0')) << "a tail";
}

TEST(Safetensors, EveryFlippedBitIsReadOrRefused) {
  const TemporaryFolder folder;
  const std::string bytes = small_file();
  int refused = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string changed = bytes;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
    refused += opens(folder, changed) ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, HostileHeadersAreRefused) {
  const TemporaryFolder folder;
  const std::string data(64, '\0');
  const auto one = [&](const std::string& header) {
    return opens(folder, with_header(header, data));
  };
  const auto tensor = [](const std::string& shape, const std::string& offsets,
                         const std::string& dtype = "F32") {
    return R"("t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}";
  };
  EXPECT_TRUE(one("{" + tensor("[16]", "[0,64]") + "}   "));
  EXPECT_FALSE(one("{" + tensor("[16]", "[0,64]") + "} x")) << "something after it";
  EXPECT_FALSE(one("{" + tensor("[15]", "[0,60]") + "}")) << "a tail";
  EXPECT_FALSE(one("{" + tensor("[15]", "[4,64]") + "}")) << "a hole";
  EXPECT_FALSE(one("{" + tensor("[16]", "[64,0]") + "}")) << "backwards";
  EXPECT_FALSE(one("{" + tensor("[16]", "[0,68]") + "}"));
  EXPECT_FALSE(one("{" + tensor("[17]", "[0,64]") + "}"));
  EXPECT_FALSE(one("{" + tensor("[-16]", "[0,64]") + "}"));
  EXPECT_FALSE(one("{" + tensor("[16.0]", "[0,64]") + "}"));
  EXPECT_FALSE(one("{" + tensor("[4294967296,4294967296,16]", "[0,64]") + "}")) << "overflow";
  EXPECT_FALSE(one("{" + tensor("[16]", "[0,18446744073709551615]") + "}"));
  EXPECT_FALSE(one("{" + tensor("[16]", "[0]") + "}"));
  EXPECT_FALSE(one("{" + tensor("[1,1,1,1,1,1,1,1,16]", "[0,64]") + "}"));
  EXPECT_FALSE(one("{" + tensor("[16]", "[0,64]", "F33") + "}"));
  EXPECT_FALSE(one("{" + tensor("[16]", "[0,64]") + "," + tensor("[16]", "[0,64]") + "}"))
      << "a name twice";
  EXPECT_FALSE(one(R"({"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},)" +
                   tensor("[16]", "[0,64]") + "}"))
      << "overlap";
  EXPECT_FALSE(one(std::string(64, '[') + std::string(64, ']')));
  EXPECT_FALSE(one(R"({"__metadata__":)" + std::string(20, '[') + std::string(20, ']') + "}"));
  EXPECT_FALSE(one("{\"\xFF\":{}}")) << "no UTF-8";
  EXPECT_FALSE(one(""));
  EXPECT_FALSE(one(" {}"));
  EXPECT_FALSE(one(R"({"t":7})"));
  EXPECT_TRUE(opens(folder, with_header(R"({"__metadata__":{"format":"pt"}})")));
}

TEST(Safetensors, LengthsAreHeldAgainstTheFile) {
  const TemporaryFolder folder;
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    EXPECT_FALSE(opens(folder, std::string(reinterpret_cast<const char*>(&length), 8) + "{}"));
  }
}

TEST(Safetensors, ForeignFilesAreNamed) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& bytes) {
    return test::error_of([&] { SafetensorsFile(folder.write("x", bytes)); }).message();
  };
  EXPECT_THAT(message("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("LFS"));
  EXPECT_THAT(message("<!DOCTYPE html>"), HasSubstr("web page"));
}

/// FP8 by its definition: sign, exponent, fraction.
TEST(Safetensors, EightBitFloats) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto byte = static_cast<std::uint8_t>(bits);
    float e4m3 = 0;
    float e5m2 = 0;
    safetensors_type("F8_E4M3")->dequantise(&byte, 1, &e4m3);
    safetensors_type("F8_E5M2")->dequantise(&byte, 1, &e5m2);
    const double sign = bits >= 128 ? -1 : 1;
    const int exponent4 = (bits >> 3) & 15;
    const int exponent5 = (bits >> 2) & 31;
    if ((bits & 127) == 127) {
      EXPECT_TRUE(std::isnan(e4m3));
    } else {
      EXPECT_EQ(e4m3, sign * (exponent4 == 0 ? std::ldexp(bits & 7, -9)
                                             : std::ldexp(8 + (bits & 7), exponent4 - 10)));
    }
    if (exponent5 == 31) {
      EXPECT_EQ(std::isnan(e5m2), (bits & 3) != 0);
    } else {
      EXPECT_EQ(e5m2, sign * (exponent5 == 0 ? std::ldexp(bits & 3, -16)
                                             : std::ldexp(4 + (bits & 3), exponent5 - 17)));
    }
  }
}

}  // namespace
}  // namespace kvscope
