#include "kvscope/capture/room.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();

std::string gib(std::int64_t bytes) {
  return bytes < (std::int64_t{1} << 30)
             ? fmt::format("{:.0f} MiB", static_cast<double>(bytes) / (1 << 20))
             : fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

/// The number in a file of one number; nothing if there is none ("max").
std::optional<std::int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

std::int64_t available_on_host(const std::string& meminfo) {
  std::ifstream file(meminfo);
  std::string name;
  std::int64_t kilobytes = 0;
  std::string rest;
  while (file >> name >> kilobytes && std::getline(file, rest)) {
    if (name == "MemAvailable:") {
      return kilobytes * 1024;
    }
  }
  return unlimited;
}

std::int64_t left_of_group(const std::string& folder) {
  const auto most = number_in(folder + "/memory.max");
  const auto used = number_in(folder + "/memory.current");
  if (!most || !used) {
    return unlimited;
  }
  std::int64_t cached = 0;  // files in memory that go when it is needed
  std::ifstream facts(folder + "/memory.stat");
  std::string name;
  for (std::int64_t value = 0; facts >> name >> value;) {
    cached += name == "inactive_file" ? value : 0;
  }
  return std::max<std::int64_t>(0, *most - std::max<std::int64_t>(0, *used - cached));
}

std::int64_t left_of_address_space(const std::string& statm) {
  rlimit limit{};
  const auto pages = number_in(statm);
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || !pages) {
    return unlimited;
  }
  return std::max<std::int64_t>(
      0, static_cast<std::int64_t>(limit.rlim_cur) - *pages * sysconf(_SC_PAGESIZE));
}

/// The first profile below the request's that fits; empty if none does.
template <typename Fits>
std::string cheaper_profile(CaptureRequest request, const Fits& fits) {
  while (request.profile != Profile::window) {
    request.profile = static_cast<Profile>(static_cast<int>(request.profile) - 1);
    if (const std::string price = fits(request); !price.empty()) {
      return fmt::format("choose --profile {} ({})", profile_name(request.profile), price);
    }
  }
  return {};
}

}  // namespace

std::int64_t free_memory_bytes(const MemorySources& sources) {
  return std::min({available_on_host(sources.meminfo), left_of_group(sources.cgroup),
                   left_of_address_space(sources.statm)});
}

Room room_for(const std::string& output, bool any_memory) {
  Room room;
  const std::filesystem::path folder = std::filesystem::absolute(output).parent_path();
  room.folder = folder.string();
  std::error_code failure;
  KVSCOPE_CHECK(std::filesystem::is_directory(folder, failure), ErrorCode::io,
                "the folder of the output file does not exist", room.folder, "create it");
  const auto space = std::filesystem::space(folder, failure);
  room.disk_bytes = failure ? unlimited : static_cast<std::int64_t>(space.available);
  room.memory_bytes = any_memory ? unlimited : free_memory_bytes();
  return room;
}

void check_room(const CaptureRequest& request, const ModelShape& shape, int prompt_tokens,
                ElementType cache_type, const Room& room) {
  const auto price_of = [&](const CaptureRequest& other) {
    return price_capture(other, shape, prompt_tokens, cache_type);
  };
  const CapturePrice price = price_of(request);
  if (price.disk_bytes >= room.disk_bytes) {
    const std::string cheaper = cheaper_profile(request, [&](const CaptureRequest& other) {
      const std::int64_t bytes = price_of(other).disk_bytes;
      return bytes < room.disk_bytes ? gib(bytes) : std::string();
    });
    throw Error(ErrorCode::io,
                fmt::format("the capture takes {}, the disk has {} left", gib(price.disk_bytes),
                            gib(room.disk_bytes)),
                room.folder,
                cheaper.empty() ? "free some space, or choose fewer --layers"
                                : cheaper + ", or fewer --layers");
  }
  const std::int64_t needed = price.memory_bytes + room.model_bytes;
  if (needed >= room.memory_bytes) {
    const std::string cheaper = cheaper_profile(request, [&](const CaptureRequest& other) {
      const std::int64_t bytes = price_of(other).memory_bytes + room.model_bytes;
      return bytes < room.memory_bytes ? gib(bytes) : std::string();
    });
    throw Error(ErrorCode::failed,
                fmt::format("the run takes {} of memory ({} of it weights and cache), {} are free",
                            gib(needed), gib(room.model_bytes), gib(room.memory_bytes)),
                "",
                cheaper.empty() ? "choose --profile window with fewer --window, read the prompt in "
                                  "pieces (--chunk), shorten it, or try all the same (--yes)"
                                : cheaper + ", or a shorter prompt; --yes tries all the same");
  }
}

LivePlan plan_live(const std::string& file_system, bool asked, bool insisted) {
  LivePlan plan;
  plan.live = asked || insisted;
  if (!plan.live || file_system.empty()) {
    return plan;
  }
  if (!insisted) {
    plan.live = false;
    plan.warning = fmt::format(
        "the file lies on {}, where a reader may see writes out of order: written as a batch "
        "instead of --live (--live-on-network insists)",
        file_system);
    return plan;
  }
  plan.note =
      fmt::format("written live on {}: readers elsewhere may see writes out of order", file_system);
  plan.warning = plan.note;
  return plan;
}

}  // namespace kvscope
