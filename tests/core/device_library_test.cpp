#include "kvscope/core/device_library.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace kvscope {
namespace {

TEST(DeviceLibrary, SaysWhichIsNotThere) {
  const DeviceLibrary absent("libkvscope_absent", 1);
  EXPECT_NE(absent.why_not().find("libkvscope_absent.so"), std::string::npos) << absent.why_not();
  EXPECT_EQ(absent.function<int()>("anything"), nullptr);
}

TEST(DeviceLibrary, IsFoundInBinBesideThisProgramAndHeldToItsVersion) {
  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  if (!std::filesystem::exists(here / "../bin/libkvscope_cuda.so")) {
    GTEST_SKIP() << "built without CUDA";
  }
  const DeviceLibrary other("libkvscope_cuda", -1);
  EXPECT_EQ(other.why_not(), "libkvscope_cuda.so is of another version");
  EXPECT_EQ(other.function<int()>("kvscope_cuda_devices"), nullptr);
}

}  // namespace
}  // namespace kvscope
