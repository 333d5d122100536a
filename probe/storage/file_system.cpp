#include "kvscope/storage/file_system.h"

#include <sys/vfs.h>

#include <filesystem>

namespace kvscope {
namespace {

struct Known {
  std::uint32_t type;
  const char* name;
};

// linux/magic.h and statfs(2); some are in no header.
constexpr Known shared[] = {{0x6969, "NFS"},        {0x517B, "SMB"},      {0xFF534D42, "SMB"},
                            {0xFE534D42, "SMB"},    {0x65735546, "FUSE"}, {0x65735543, "FUSE"},
                            {0x01021997, "9P"},     {0x00C36400, "Ceph"}, {0x5346414F, "AFS"},
                            {0x0BD00BD0, "Lustre"}, {0x6B414653, "AFS"},  {0x47504653, "GPFS"},
                            {0x19830326, "BeeGFS"}, {0x73757245, "Coda"}, {0x7461636F, "OCFS2"}};

}  // namespace

std::string shared_file_system_name(std::int64_t type) {
  for (const Known& known : shared) {
    if (known.type == static_cast<std::uint32_t>(type)) {
      return known.name;
    }
  }
  return {};
}

std::string shared_file_system(const std::string& path) {
  struct statfs facts = {};
  const std::string folder = std::filesystem::absolute(path).parent_path().string();
  if (statfs(path.c_str(), &facts) != 0 && statfs(folder.c_str(), &facts) != 0) {
    return {};
  }
  return shared_file_system_name(static_cast<std::int64_t>(facts.f_type));
}

}  // namespace kvscope
