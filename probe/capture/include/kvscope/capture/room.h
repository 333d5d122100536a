#pragma once

#include <cstdint>
#include <string>

#include "kvscope/capture/request.h"

namespace kvscope {

/// Where the system says how much memory there is.
struct MemorySources {
  std::string meminfo = "/proc/meminfo";
  std::string cgroup = "/sys/fs/cgroup";  ///< version 2
  std::string statm = "/proc/self/statm";
};

/// Bytes that this process may still take: what the host has available, what its group is allowed,
/// what its own limit of address space leaves; the least of them. The greatest int64 where nothing
/// is known.
std::int64_t free_memory_bytes(const MemorySources& sources = {});

/// What a capture has to do with.
struct Room {
  std::int64_t disk_bytes = 0;    ///< free where the file goes
  std::int64_t memory_bytes = 0;  ///< free
  std::int64_t model_bytes = 0;   ///< taken by weights and cache
  std::string folder;             ///< of the file
};

/// Room where `output` goes; memory without bound if `any_memory`. `model_bytes` is left to the
/// caller. Throws Error{io} if its folder does not exist.
Room room_for(const std::string& output, bool any_memory);

/// Throws Error{io} if the request does not fit the disk, Error{failed} if it does not fit the
/// memory: with its price, what is free, and the next cheaper profile that does fit. Before any
/// weight is read.
void check_room(const CaptureRequest& request, const ModelShape& shape, int prompt_tokens,
                ElementType cache_type, const Room& room);

/// How a capture that others want to follow is written.
struct LivePlan {
  bool live = false;
  std::string warning;  ///< for the user
  std::string note;     ///< for the file (CaptureIndex::notes)
};

/// On a network or user-space file system (`file_system`: its name, see `shared_file_system`; empty
/// = local) a live file is only made if `insisted`; it then says so itself.
LivePlan plan_live(const std::string& file_system, bool asked, bool insisted);

}  // namespace kvscope
