#pragma once

#include <cstdint>
#include <string>

namespace kvscope {

/// Name of the network or user-space file system that `path`, or else its folder, lies on ("NFS",
/// "SMB", "FUSE", ...): one that does not promise readers the order of writes which following a
/// live file needs. Empty for a local one, and where the system does not say.
std::string shared_file_system(const std::string& path);

/// Likewise by the number that statfs gives (f_type).
std::string shared_file_system_name(std::int64_t type);

}  // namespace kvscope
