#include "kvscope/core/capture_index.h"

#include <fmt/format.h>

#include <array>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

const std::array<std::string, 4> profile_names = {"window", "scores", "qkv", "full"};

}  // namespace

const char* profile_name(Profile profile) {
  return profile_names[static_cast<std::size_t>(profile)].c_str();
}

Profile parse_profile(const std::string& text) {
  for (std::size_t index = 0; index < profile_names.size(); ++index) {
    if (profile_names[index] == text) {
      return static_cast<Profile>(index);
    }
  }
  const std::string near =
      nearest_name(text, profile_names.data(), static_cast<int>(profile_names.size()));
  throw Error(
      ErrorCode::usage, fmt::format("unknown profile '{}'", text), "--profile",
      near.empty() ? "use window, scores, qkv or full" : fmt::format("did you mean '{}'?", near));
}

void require_all_heads(const CaptureIndex& index) {
  KVSCOPE_CHECK(index.all_heads(), ErrorCode::missing_data,
                fmt::format("the capture holds {} of {} query heads and {} of {} KV heads",
                            index.stored_query_heads(), index.shape.query_heads,
                            index.stored_kv_heads(), index.shape.kv_heads),
                index.path, "capture again without --query-heads and --kv-heads");
}

}  // namespace kvscope
