#pragma once

#include <future>
#include <string>
#include <vector>

#include "kvscope/core/attention_tile.h"
#include "kvscope/scene/scene.h"

namespace kvscope::gui {

/// Reads a capture, decisions and a spectrum, told apart by what they are, on a thread of its own:
/// the one that owns every HDF5 handle. The future throws Error{io | corrupt_file | usage}.
std::future<Scene> load_scene(std::vector<std::string> paths);

/// Attention of one query head's stored queries (layer: true index), computed on that thread. The
/// future throws Error{missing_data | io}.
std::future<AttentionTile> load_attention(const CaptureIndex& capture, int layer, int query_head);

}  // namespace kvscope::gui
