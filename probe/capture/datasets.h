#pragma once

#include <cstdint>
#include <string>

namespace kvscope::detail {

/// Tensors waiting for the writer thread hold at most this much.
inline constexpr std::int64_t queue_limit_bytes = std::int64_t{64} << 20;

/// Keys of the most attended tokens stored for each decode step.
inline constexpr int decode_top_keys = 32;
/// Next tokens stored for each decode step.
inline constexpr int decode_top_logits = 64;
/// First tokens counted as sinks by /steps/sink_mass.
inline constexpr int sink_tokens = 4;

/// "window_32/" for an observation window's own planes.
std::string window_folder(int window);

}  // namespace kvscope::detail
