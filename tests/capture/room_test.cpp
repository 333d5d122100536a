#include "kvscope/capture/room.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "kvscope/core/error.h"
#include "recorded_run.h"

namespace kvscope::test {
namespace {

constexpr std::int64_t mib = std::int64_t{1} << 20;

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
}

TEST(FreeMemory, IsTheLeastOfHostGroupAndAddressSpace) {
  const CaptureFolder folder;
  MemorySources sources{folder / "meminfo", folder / "group", folder / "statm"};
  EXPECT_EQ(free_memory_bytes(sources), std::numeric_limits<std::int64_t>::max()) << "unknown";
  write_text(sources.meminfo,
             "MemTotal:       8000 kB\nMemFree:        100 kB\nMemAvailable:   5000 kB\n");
  EXPECT_EQ(free_memory_bytes(sources), 5000 * 1024);
  std::filesystem::create_directory(sources.cgroup);
  write_text(sources.cgroup + "/memory.current", "4000000\n");
  write_text(sources.cgroup + "/memory.max", "max\n");
  EXPECT_EQ(free_memory_bytes(sources), 5000 * 1024);
  write_text(sources.cgroup + "/memory.max", "5000000\n");
  EXPECT_EQ(free_memory_bytes(sources), 1000000);
  write_text(sources.cgroup + "/memory.stat", "anon 7\ninactive_file 500000\nfile 9\n");
  EXPECT_EQ(free_memory_bytes(sources), 1500000);
  EXPECT_GT(free_memory_bytes(), 0);
}

ModelShape room_shape() {
  ModelShape shape;
  shape.layers = 4;
  shape.query_heads = 8;
  shape.kv_heads = 2;
  shape.head_dim = 64;
  shape.hidden_dim = 512;
  return shape;
}

Error refusal(Profile profile, const Room& room) {
  CaptureRequest request;
  request.profile = profile;
  try {
    check_room(request, room_shape(), 8192, ElementType::f4, room);
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::interrupted, "fits");
}

TEST(Room, ARequestLargerThanTheDiskNamesPriceFreeSpaceAndTheCheaperProfile) {
  CaptureRequest request;
  request.profile = Profile::full;
  const auto price = [&](Profile profile) {
    request.profile = profile;
    return price_capture(request, room_shape(), 8192, ElementType::f4).disk_bytes;
  };
  Room room{price(Profile::qkv) - 1, 1 << 30, 0, "/data"};
  const Error error = refusal(Profile::full, room);
  EXPECT_EQ(error.code(), ErrorCode::io);
  EXPECT_NE(error.message().find(std::to_string(price(Profile::full) / mib).substr(0, 2)),
            std::string::npos)
      << error.message();
  EXPECT_NE(error.message().find("left"), std::string::npos);
  EXPECT_EQ(error.where(), "/data");
  EXPECT_NE(error.fix().find("--profile scores"), std::string::npos) << error.fix();
  room.disk_bytes = price(Profile::scores);
  EXPECT_NE(refusal(Profile::scores, room).fix().find("--profile window"), std::string::npos);
  room.disk_bytes = 1000;
  EXPECT_EQ(refusal(Profile::window, room).fix().find("--profile"), std::string::npos);
  room.disk_bytes = price(Profile::full) + 1;
  EXPECT_EQ(refusal(Profile::full, room).message(), "fits");
}

TEST(Room, ARequestLargerThanTheMemoryNamesPriceFreeMemoryAndTheCheaperProfile) {
  CaptureRequest request;
  request.profile = Profile::window;
  const std::int64_t window =
      price_capture(request, room_shape(), 8192, ElementType::f4).memory_bytes;
  Room room{std::int64_t{1} << 40, 300 * mib + window + 1, 300 * mib, "/data"};
  EXPECT_EQ(refusal(Profile::window, room).message(), "fits");
  const Error error = refusal(Profile::scores, room);
  EXPECT_EQ(error.code(), ErrorCode::failed);
  EXPECT_NE(error.message().find("300 MiB of it weights and cache"), std::string::npos)
      << error.message();
  EXPECT_NE(error.message().find("are free"), std::string::npos);
  EXPECT_NE(error.fix().find("--profile window"), std::string::npos) << error.fix();
  room.memory_bytes = 10 * mib;
  EXPECT_NE(refusal(Profile::window, room).fix().find("--chunk"), std::string::npos);
}

TEST(LivePlan, NetworkFileSystemsGetABatchUnlessInsistedOn) {
  EXPECT_FALSE(plan_live("", false, false).live);
  EXPECT_FALSE(plan_live("NFS", false, false).live);
  EXPECT_TRUE(plan_live("NFS", false, false).warning.empty()) << "a batch is safe anywhere";
  const LivePlan local = plan_live("", true, false);
  EXPECT_TRUE(local.live && local.warning.empty() && local.note.empty());
  const LivePlan batch = plan_live("NFS", true, false);
  EXPECT_FALSE(batch.live);
  EXPECT_NE(batch.warning.find("NFS"), std::string::npos);
  EXPECT_NE(batch.warning.find("--live-on-network"), std::string::npos);
  const LivePlan insisted = plan_live("SMB", true, true);
  EXPECT_TRUE(insisted.live);
  EXPECT_NE(insisted.note.find("SMB"), std::string::npos);
  EXPECT_EQ(insisted.warning, insisted.note);
}

}  // namespace
}  // namespace kvscope::test
